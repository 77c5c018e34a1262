"""What training and serving will take, in memory and time, before either is begun: arithmetic over a model's shapes.

Nothing here loads a weight or imports torch. Every figure is a sum of terms that say how they came about.
"""
