"""
Is the answer known before it is said?
======================================

A model may know its answer from the first token on and write the steps for show. A probe on its states tells what is
known early, beyond what the text so far says; forced answers tell from where on it is settled.
"""

# %%
# Bits about the last step, at every place of the chain: what a linear probe reads in the state, given the text so far.
import loadbearing as lb

task = lb.tasks.load("modular-sum")
found = {}
for name in ("sft", "both"):
    model = lb.hooks.load(f"organism:{name}")
    last = task.intermediates[-1:]
    problems = task.problems(128, seed=0)
    found[name] = lb.analyses.beyond(model, problems, variables=last, readers=["linear"], folds=3, shuffles=0)
    print(found[name])

# %%
# Neither model's states tell the last sum much before the text does, though `both` could compute it in one pass.
ax = lb.figures.beyond(found)
lb.figures.save(ax, "early", formats=("pdf",))
