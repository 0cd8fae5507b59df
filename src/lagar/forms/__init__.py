"""Forms: a model built anew to answer faster, proved to be the same model, and timed.

Runs at intake in a confined process, and may import any model library inside its functions. What runs a finished form
in a worker is `lagar.runtimes.form`.
"""
