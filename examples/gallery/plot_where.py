"""
Where in the network is the answer?
===================================

One state of another problem's run is put into this run, at every layer and token in turn. Where the answer goes with
it, it was on its way there.
"""

# %%
# The model `both` can answer at once or by steps; the two maps show two ways through the same weights.
import loadbearing as lb

task = lb.tasks.load("modular-sum")
model = lb.hooks.load("organism:both")
pairs = task.pairs(8, seed=0)
maps = {
    "answer-only": lb.analyses.patch(model, pairs),
    "CoT": lb.analyses.patch(model, pairs, mode="cot"),
}
for found in maps.values():
    print(found)

# %%
# Answer-only: from the operands straight to the cue. With a chain: through the last written sum.
ax = lb.figures.patch(maps)
lb.figures.save(ax, "where", formats=("pdf",))
