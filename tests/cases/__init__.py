"""What is asked: tables of cases, by subject, and the recorded or published runs that are their witnesses.

No test stands here, and nothing here needs PyTorch. ``docs/make_accuracy.py`` measures the same tables.
"""
