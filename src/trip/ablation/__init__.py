"""The paper's ablations at a size that anyone can run: one start, one data order, one budget, several seeds.

`variants` says what is compared, `study` trains and resumes, `scores` measures one network, `table` compares them.
"""
