"""
Who computed each step?
=======================

The wires show one hop: how the answer reads the last sum. Whether that sum was made from the text before it, or in
one go from the problem, is told by the ledger.
"""

# %%
# For every step, each source (an operand, an earlier step) is swapped alone, the rest is held, and the step is
# decoded anew. `load` is how often it becomes what the swapped source implies.
import loadbearing as lb

task = lb.tasks.load("modular-sum")
found = {}
for name in ("sft", "post-hoc"):
    model = lb.hooks.load(f"organism:{name}")
    found[name] = lb.analyses.ledger(model, task.problems(48, seed=0))
    print(found[name])
    print("serial share, chance:", found[name].serial_share(), "\n")

# %%
# Every step of `sft` follows from the step before it and one operand: a chain. The digits of `post-hoc` follow from
# nothing.
ax = lb.figures.ledger(found)
lb.figures.save(ax, "steps", formats=("pdf",))
