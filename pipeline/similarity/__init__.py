"""How alike two texts are: MinHash with verified Jaccard, and n-gram overlap with reference items.

It decides nothing about what to do with texts that are alike (the stages seed, dedupe and decontaminate do).
"""
