"""Draw docs/images/game.png: which way the data go in one round of the game."""

from itertools import pairwise

from drawing import BLUE, GREEN, GREY, ORANGE, PURPLE, arrow, box, canvas, disc, label, panel, save

HEIGHT = 66
TOPS = (156, 254, 352, 450, 548)
MIDDLES = tuple(top + HEIGHT / 2 for top in TOPS)

figure, axes = canvas(900, 648)

# The real texts, and who reads which.
box(axes, 24, 14, 852, 54, GREEN, "Real texts (train_dataset)", ["`GameTexts`"])
label(axes, 864, 30, "who learns from which: discriminator_data", GREY, ha="right")
label(axes, 864, 49, "kept for tests of D: discriminator_holdout", GREY, ha="right")
arrow(axes, [(288, 68), (288, TOPS[0])], GREEN)
label(axes, 298, 91, "prompts", GREEN)
arrow(axes, [(680, 68), (680, TOPS[0])], GREEN)
label(axes, 670, 91, "`for_discriminator`", GREEN, ha="right")
arrow(axes, [(866, 68), (866, MIDDLES[1]), (850, MIDDLES[1])], GREEN)
label(axes, 856, 91, "`held_out`", GREEN, ha="right")
arrow(axes, [(54, 68), (54, MIDDLES[4]), (84, MIDDLES[4])], GREEN)
label(axes, 64, 91, "`for_generator`", GREEN)

# The generator's turn.
panel(axes, 24, 110, 482, 520, BLUE)
label(axes, 492, 132, "`generator_steps updates`", BLUE, ha="right")
label(axes, 84, 132, "G's turn: training_step", BLUE, fontsize=10.5, fontweight="bold")
steps = [
    ("1  G writes completions", ["`generate_completions`", "num_generations, temperature, max_completion_length"]),
    ("2  Rollouts finish the prefixes of each", ["`rollout`", "num_rollouts, rollout_stride, rollout_batch_size"]),
    ("3  D scores every finished text", ["`Discriminator.score`", "log-odds of real, for each rollout of each token"]),
    ("4  Scores become rewards, then advantages",
     ["`rewards_of_scores, advantages_of_update`", "reward, reward_control, baseline, whiten_advantages"]),
    ("5  Loss, and one update of G", ["`compute_loss`", "policy gradient + beta x KL + mle_coef x NLL of real texts"]),
]  # fmt: skip
for top, (title, lines) in zip(TOPS, steps, strict=True):
    box(axes, 84, top, 408, HEIGHT, BLUE, title, lines)
between = ("Completions", "Rollouts, a chunk at a time", "scores", "advantages, one per token")
for (top, following), text in zip(pairwise(TOPS), between, strict=True):
    arrow(axes, [(288, top + HEIGHT), (288, following)], BLUE)
    label(axes, 298, (top + HEIGHT + following) / 2 - 3, text, BLUE)
arrow(axes, [(492, MIDDLES[4]), (526, MIDDLES[4]), (526, MIDDLES[0] + 18), (492, MIDDLES[0] + 18)], BLUE)
label(axes, 538, 490, "new weights of G", BLUE, rotation=90, ha="center")

# The discriminator's turn.
panel(axes, 580, 110, 296, 332, ORANGE)
label(axes, 856, 132, "`discriminator_steps sets`", ORANGE, ha="right")
label(axes, 594, 132, "D's turn", ORANGE, fontsize=10.5, fontweight="bold")
turns = [
    ("a  G writes fresh texts", ["`generate_completions`", "discriminator_samples, and as many real"]),
    ("b  D is tested, perhaps let off", ["`Discriminator.evaluate`", "discriminator_accuracy_gate"]),
    ("c  D learns to tell them apart", ["`Discriminator.update`", "discriminator_epochs, \u2026_batch_size"]),
]
for top, (title, lines) in zip(TOPS, turns, strict=False):
    box(axes, 594, top, 256, HEIGHT, ORANGE, title, lines)
for top, following in pairwise(TOPS[:3]):
    arrow(axes, [(720, top + HEIGHT), (720, following)], ORANGE)

# What one player gets of the other.
arrow(axes, [(492, MIDDLES[0] - 8), (594, MIDDLES[0] - 8)], BLUE)
disc(axes, 550, MIDDLES[0] - 8, "G", BLUE)
arrow(axes, [(594, MIDDLES[2]), (492, MIDDLES[2])], ORANGE)
disc(axes, 550, MIDDLES[2], "D", ORANGE)

# What a person sees of it.
panel(axes, 580, 462, 296, 168, PURPLE)
label(axes, 862, 484, "`Meter`", PURPLE, ha="right")
label(axes, 594, 484, "The log", PURPLE, fontsize=10.5, fontweight="bold")
logged = {
    "1": "completions/mean_length, \u2026/ended_ratio",
    "4": "reward/mean, reward/std",
    "5": "loss, policy_loss, entropy, kl, mle_loss, \u2026",
    "b": "discriminator/held_out_auc, \u2026_accuracy",
    "c": "discriminator/loss, \u2026_accuracy_real",
    "all": "seconds/generate, rollout, score, generator, \u2026",
}
for index, (where, names) in enumerate(logged.items()):
    label(axes, 594, 510 + 20 * index, where, PURPLE, fontweight="bold", fontsize=7.5)
    label(axes, 614, 510 + 20 * index, names, fontsize=7.5)

save(figure, "game.png")
