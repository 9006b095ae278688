"""Use the classifier as any of scikit-learn's: cross-validation with groups, and a search over settings."""

from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_predict

import cotune
from cotune.demo import read_demo_posts

posts = read_demo_posts().sample(120, random_state=0)
X, y, groups = posts[["text", "image"]], posts["label"], posts["group"]

# Embeddings are cached by content, so that later folds and settings train the head alone.
model = cotune.JointClassifier(tune="frozen")
proba = cross_val_predict(model, X, y, groups=groups, cv=GroupKFold(3), method="predict_proba")
print(f"AUC out of fold, {len(X)} posts: {roc_auc_score(y == 'positive', proba[:, 1]):.3f}")

search = GridSearchCV(model, {"fusion": ["attention", "concat"]}, cv=GroupKFold(2), scoring="roc_auc", refit=False)
search.fit(X, y, groups=groups)
for settings, score in zip(search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True):
    print(f"{settings['fusion']:<10} mean AUC {score:.3f}")
