"""What the engine's answers are held against: PEFT, loud adapters, and questions that show every logprob."""
