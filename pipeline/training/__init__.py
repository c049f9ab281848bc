"""What training needs and no other stage does: encoding, audit, batches, checkpoints and the trainer itself.

It reads no datasets of a run and writes none (`stages/sft.py` does); only `trainer.py` imports torch.
"""
