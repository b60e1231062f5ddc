"""
Your own questions
==================

A file of questions is all that is needed: a prompt and an answer a line. Counterfactual partners are made by
changing one number of a prompt, where its tokens stay in place.
"""

# %%
# Here the questions are made; yours come from where they are. See "Your own problems" for all fields and rules.
import json
from pathlib import Path

import loadbearing as lb

made = lb.tasks.load("modular-sum").problems(40, seed=0)
lines = [json.dumps({"prompt": problem.prompt, "answer": problem.answer}) for problem in made]
Path("questions.jsonl").write_text("\n".join(lines))

# %%
# The model stands for yours: a folder, a hub name, a model object. The rules say how steps and answers are found in
# what it writes.
task = lb.tasks.load(r"jsonl:questions.jsonl?answer=number&steps=regex:\d+")
model = lb.hooks.load("organism:sft")
pairs = task.pairs(24, seed=0, tokenizer=model.tokenizer)
print(len(pairs), "pairs; left out:", dict(pairs.left_out))

# %%
# Where does a chain first state its answer? Short numbers stand in a chain by chance, so that the first match would be
# refused; here the third number states it.
found = lb.analyses.channels(model, pairs, target="step.3")
print(found)

# %%
# Without a program that says which step reads what, a pair varies any number of the prompt. Where that was the last
# one, it cannot be in the text yet: about a quarter of the share is direct.
ax = lb.figures.channels({"my model": found})
lb.figures.save(ax, "own", formats=("pdf",))
