"""Train on labelled posts, score held-out ones, predict posts that lack a modality, save and load."""

import tempfile
from pathlib import Path

from sklearn.metrics import roc_auc_score

import cotune
from cotune.demo import read_demo_posts

posts = read_demo_posts()
train, test = (posts[posts["split"] == part].head(150) for part in ("train", "test"))  # some are enough to show it

model = cotune.JointClassifier(tune="frozen", seed=1)  # leave `tune` out for joint fine-tuning
model.fit(train[["text", "image"]], train["label"])

proba = model.predict_proba(test[["text", "image"]])
print(f"AUC on {len(test)} held-out posts: {roc_auc_score(test['label'] == model.classes_[1], proba[:, 1]):.3f}")

# A post may lack its image or its text; every prediction says what each modality contributed.
picture = test["image"].iloc[0]
new = [{"text": "what a lovely day", "image": picture}, {"text": "what a lovely day"}, {"image": picture}]
print(model.predict_frame(new).round(3).to_string(index=False))

with tempfile.TemporaryDirectory() as folder:
    model.save(Path(folder) / "run")
    again = cotune.load(Path(folder) / "run")  # needs neither network nor the original weights
    difference = abs(again.predict_proba(test[["text", "image"]]) - proba).max()
print(f"loaded again; largest difference in a probability: {difference:.1e}")
