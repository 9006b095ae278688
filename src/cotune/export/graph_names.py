"""Names of an exported graph's outputs."""

#: Always there: probabilities or values (B, n_outputs), and each field's share (B, F).
PREDICTIONS, SHARES = "predictions", "shares"
#: On request: what the model says of nothing, and what each field adds, says alone, and says together with another.
PARTS = ("base", "contributions", "alone", "interactions")
