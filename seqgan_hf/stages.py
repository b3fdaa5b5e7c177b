"""What the generators of a run are called in its tables, curves, card and report."""

#: Before the game, at a temperature of 1.
MLE = "MLE"
#: After it.
SEQGAN = "SeqGAN"
#: Before the game, where it writes best without being more uniform than real texts.
BEST_TEMPERATURE = "MLE, best temperature"
#: Before the game, where it writes as well as after it.
MATCHED_TEMPERATURE = "MLE, matched temperature"
#: Before the game, at the temperature that follows.
MLE_AT = "MLE, temperature "
#: After it, at the temperature that follows.
SEQGAN_AT = "SeqGAN, temperature "
#: After the same game with the control of the reward that follows.
CONTROL = "SeqGAN, reward "
#: What all are compared with.
REAL_TEXTS = "real texts"
