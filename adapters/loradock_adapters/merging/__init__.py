"""Adapters put into their base model, or several made into one; with PEFT's own methods, and measured.

Imports torch: only `loradock merge` and tests come here.
"""
