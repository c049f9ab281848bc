"""What training needs and no other stage does: encoding, audit, batches, checkpoints and the trainers themselves.

It reads no datasets of a run and writes none (`stages/sft.py` does). Importing `build.py` or a trainer imports torch;
importing any other module does not.
"""
