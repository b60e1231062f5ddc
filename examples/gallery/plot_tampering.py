"""
What becomes of the answer when the chain is changed?
=====================================================

Behaviour needs no look inside: cut the chain, fill it with dots, put a mistake into it, and see what the answer does.
"""

# %%
# "follow" is how often the answer is what the changed chain implies, "same" how often it stays.
import loadbearing as lb

task = lb.tasks.load("modular-sum")
found = {}
for name in ("sft", "post-hoc"):
    model = lb.hooks.load(f"organism:{name}")
    found[name] = lb.analyses.behaviour(model, task.problems(64, seed=0))
print(found["sft"])

# %%
# A mistake in a step of `sft` goes through to its answer; `post-hoc` gives the right answer whatever stands there.
ax = lb.figures.behaviour(found)
lb.figures.save(ax, "tampering", formats=("pdf",))
