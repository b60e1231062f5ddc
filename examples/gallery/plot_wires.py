"""
Which wire carries the answer?
==============================

Three models add four numbers mod 10 and write a chain of thought before they answer. One was taught the chain, one
was taught sums at once as well, one writes random digits and then the right answer. Do their answers come from the
text?
"""

# %%
# A pair of problems differs in one number, and so in the answer. In eight cells the answer is read while each of
# three wires (direct, relay, tokens) comes from one problem or from the other.
import loadbearing as lb

task = lb.tasks.load("modular-sum")
names = ("sft", "both", "post-hoc")
found = {}
for name in names:
    model = lb.hooks.load(f"organism:{name}")
    found[name] = lb.analyses.channels(model, task.pairs(16, seed=0))
    print(found[name])

# %%
# Operands that are already summed into the text reach the answer of `sft` and `both` through the tokens, those of
# `post-hoc` directly: its digits differ between problems and carry nothing. The last operand (†) cannot be in the
# text yet. That `both` could do without its chain does not make it do so.
ax = lb.figures.channels(found)
lb.figures.save(ax, "wires", formats=("pdf",))
