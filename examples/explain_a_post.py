"""Ask why one post is predicted as it is (needs the extra `explain`)."""

import tempfile
from pathlib import Path

import cotune
from cotune.demo import read_demo_posts

posts = read_demo_posts()
train, test = posts[posts["split"] == "train"], posts[posts["split"] == "test"]
model = cotune.JointClassifier(tune="frozen").fit(train[["text", "image"]], train["label"])

post = test.iloc[3]
found = model.explain({"text": post["text"], "image": post["image"], "label": post["label"]})
print(f"{post['text']!r} with {Path(post['image']).name}: {found.label}, labelled {found.true}")
print(", ".join(f"{field} {share:.0%}" for field, share in found.shares.items()) + f": {found.verdict}")
for word in sorted(found.words["text"].words, key=lambda word: -abs(word.gradient))[:3]:
    print(f"  {word.text}: {word.gradient:+.2f} log-odds")

page = Path(tempfile.gettempdir()) / "cotune-explanation.html"
page.write_text(found._repr_html_(), encoding="utf-8")  # a notebook shows it of its own accord
print(f"page: {page}")
