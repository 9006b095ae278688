"""Names of an exported graph's outputs."""

#: Always there: probabilities or values (B, n_predictions), each field's share (B, F), and what each field adds to each
#: output (B, F, n_outputs).
PREDICTIONS, SHARES, CONTRIBUTIONS = "predictions", "shares", "contributions"
#: On request: what the model says of nothing, of each field alone, and what each pair says together.
PARTS = ("base", "alone", "interactions")
