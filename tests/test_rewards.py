import re
import statistics

import pytest
import torch
from scipy.stats import chisquare

from seqgan_hf.config import BASELINES, REWARD_CONTROLS, REWARDS, SeqGANConfig
from seqgan_hf.rewards import (
    advantages_from_rewards,
    advantages_of_update,
    apply_reward_control,
    average_rollout_scores,
    difference_advantages,
    hold_last_reward,
    leave_one_out_advantages,
    reward_from_scores,
)

MASK = torch.tensor([[1, 1, 1], [1, 0, 0]])
REWARDS_OF_TWO = torch.tensor([[0.2, 0.4, 0.9], [0.5, 0.0, 0.0]])


def test_average_rollout_scores_by_hand():
    scores = torch.tensor([[[0.2, 0.4, 0.9]], [[0.4, 0.8, 0.9]]])  # 2 rollouts, 1 completion, 3 tokens
    mask = torch.tensor([[1, 1, 0]])
    torch.testing.assert_close(average_rollout_scores(scores, mask), torch.tensor([[0.3, 0.6, 0.0]]))


def test_average_rollout_scores_names_both_shapes():
    message = "`scores` must have shape (num_rollouts, *(1, 4)) to match `completion_mask`, got (2, 1, 3)."
    with pytest.raises(ValueError, match=re.escape(message)):
        average_rollout_scores(torch.rand(2, 1, 3), torch.ones(1, 4))


def test_what_a_score_is_worth_by_hand():
    scores = torch.tensor([0.0, 2.0, -2.0])
    torch.testing.assert_close(reward_from_scores(scores, "probability"), torch.tensor([0.5, 0.880797, 0.119203]))
    assert reward_from_scores(scores, "logit").equal(scores)
    torch.testing.assert_close(
        reward_from_scores(scores, "centered_probability"), torch.tensor([0.0, 0.761594, -0.761594])
    )
    torch.testing.assert_close(
        reward_from_scores(scores, "log_probability"), torch.tensor([-0.693147, -0.126928, -2.126928])
    )


def test_a_score_beyond_all_doubt_gives_a_finite_reward():
    scores = torch.tensor([-200.0, 200.0])
    assert all(reward_from_scores(scores, reward).isfinite().all() for reward in REWARDS)


def test_hold_last_reward_lets_a_finished_text_keep_its_worth():
    assert hold_last_reward(REWARDS_OF_TWO, MASK)[1].tolist() == [0.5, 0.5, 0.5]


def test_leave_one_out_by_hand():
    # The second text ended at once and keeps 0.5: the first is compared with that at every position.
    expected = torch.tensor([[-0.3, -0.1, 0.4], [0.3, 0.0, 0.0]])
    torch.testing.assert_close(leave_one_out_advantages(REWARDS_OF_TWO, MASK), expected)


def test_leave_one_out_of_three_compares_with_the_mean_of_the_others():
    rewards, mask = torch.tensor([[1.0], [2.0], [6.0]]), torch.ones(3, 1).long()
    torch.testing.assert_close(leave_one_out_advantages(rewards, mask), torch.tensor([[-3.0], [-1.5], [4.5]]))


def test_group_leave_one_out_compares_within_a_prompt():
    rewards, mask = torch.tensor([[1.0], [2.0], [10.0], [20.0]]), torch.ones(4, 1).long()
    advantages = leave_one_out_advantages(rewards, mask, group_size=2)
    assert advantages.flatten().tolist() == [-1, 1, -10, 10]


@pytest.mark.parametrize("value", [1.0, 0.1, -3.7])
def test_equal_rewards_have_no_leave_one_out_advantage(value):
    mask = (torch.rand(7, 9) < 0.8).long().cummin(dim=1).values
    mask[:, 0] = 1
    assert leave_one_out_advantages(value * mask.float(), mask).abs().max() < 1e-6
    assert value != 1.0 or leave_one_out_advantages(mask.float(), mask).abs().max() == 0


def test_leave_one_out_needs_others():
    message = "groups of at least 2 that fill the batch; got groups of 1 in a batch of 1"
    with pytest.raises(ValueError, match=message):
        leave_one_out_advantages(torch.ones(1, 3), torch.ones(1, 3).long())


def test_difference_by_hand():
    advantages = difference_advantages(REWARDS_OF_TWO, MASK, prompt_values=torch.tensor([0.1, 0.4]))
    torch.testing.assert_close(advantages, torch.tensor([[0.1, 0.2, 0.5], [0.1, 0.0, 0.0]]))


def test_difference_with_stride_shares_the_change_over_a_segment():
    # Stride 2: tokens 0, 1 share the value after token 1; token 2 is the end.
    rewards = torch.tensor([[0.4, 0.4, 0.9]])
    advantages = difference_advantages(rewards, torch.ones(1, 3).long(), torch.tensor([0.1]), stride=2)
    torch.testing.assert_close(advantages, torch.tensor([[0.3, 0.3, 0.5]]))


def test_constant_control_is_one_where_a_token_counts():
    assert apply_reward_control(REWARDS_OF_TWO, MASK, "constant").tolist() == [[1, 1, 1], [1, 0, 0]]


def test_random_control_does_not_depend_on_the_rewards():
    torch.manual_seed(4)
    noise = apply_reward_control(REWARDS_OF_TWO, MASK, "random")
    torch.manual_seed(4)
    assert noise.equal(apply_reward_control(100 * REWARDS_OF_TWO - 3, MASK, "random"))
    assert noise[MASK == 0].abs().max() == 0 and noise[MASK == 1].min() > 0


def test_shuffled_control_gives_each_completion_the_rewards_of_one():
    rewards, mask = torch.arange(12.0).view(4, 3), torch.ones(4, 3).long()
    shuffled = apply_reward_control(rewards, mask, "shuffled")
    assert not shuffled.equal(rewards)
    assert sorted(map(tuple, shuffled.tolist())) == sorted(map(tuple, rewards.tolist()))


def permutations_of(compared, count=4, tries=400):
    rewards, mask = torch.arange(float(count)).view(-1, 1), torch.ones(count, 1).long()
    for _ in range(tries):
        yield apply_reward_control(rewards, mask, "shuffled", compared=compared).flatten().long()


def test_no_completion_keeps_its_own_rewards_where_no_baseline_compares_it_with_others():
    came_from = torch.zeros(4, 4)
    for permutation in permutations_of(compared=False):
        came_from[torch.arange(4), permutation] += 1
    assert came_from.diagonal().sum() == 0
    others = came_from[~torch.eye(4, dtype=torch.bool)]
    assert chisquare(others.numpy()).pvalue > 1e-3  # each of the others as often


@pytest.mark.parametrize("whiten", [False, True], ids=["", "whitened"])
@pytest.mark.parametrize("baseline", BASELINES)
def test_shuffled_rewards_teach_nothing_on_average(baseline, whiten, tmp_path):
    """Over all that shuffling may do, what is taught to a completion does not depend on its own reward."""
    args = SeqGANConfig(
        str(tmp_path), reward_control="shuffled", baseline=baseline, whiten_advantages=whiten, num_generations=2,
        per_device_train_batch_size=4, report_to="none", use_cpu=True,
    )  # fmt: skip
    mask, taught = torch.ones(4, 1).long(), []
    for own in (0.0, 8.0):
        rewards = torch.tensor(
            [[0.0, value] for value in (own, 1.0, 3.0, 2.0)]
        )  # behind prompts that are worth nothing
        torch.manual_seed(5)
        found = [advantages_of_update(rewards, mask, args)[0].item() for _ in range(1000)]
        taught.append(statistics.fmean(found))
    # One in four that kept its own would make 2 (1.7 whitened, were the others' not compared), the opposite -2.7 or -0.8.
    assert taught[1] - taught[0] == pytest.approx(0, abs=0.3)


def test_every_setting_of_the_config_is_known_here():
    for reward in REWARDS:
        reward_from_scores(torch.zeros(2), reward)
    for control in REWARD_CONTROLS:
        apply_reward_control(REWARDS_OF_TWO, MASK, control)
    for baseline in BASELINES:
        advantages = advantages_from_rewards(
            REWARDS_OF_TWO, MASK, baseline, prompt_values=torch.zeros(2), num_generations=2
        )
        assert advantages[MASK == 0].abs().max() == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: reward_from_scores(torch.zeros(1), "odds"),
            "`reward` must be one of probability, logit, centered_probability, log_probability; got 'odds'.",
        ),
        (
            lambda: apply_reward_control(REWARDS_OF_TWO, MASK, "zero"),
            "`reward_control` must be one of none, constant, shuffled, random; got 'zero'.",
        ),
        (
            lambda: apply_reward_control(REWARDS_OF_TWO[:1], MASK[:1], "shuffled"),
            "`reward_control='shuffled'` gives each completion the rewards of another, and needs at least 2 of them; "
            "got 1.",
        ),
        (
            lambda: advantages_from_rewards(REWARDS_OF_TWO, MASK, "mean"),
            "`baseline` must be one of none, leave_one_out, group_leave_one_out, difference; got 'mean'.",
        ),
        (lambda: advantages_from_rewards(REWARDS_OF_TWO, MASK, "difference"), "`baseline='difference'` needs"),
    ],
)
def test_unknown_settings_are_named(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_whitened_advantages_have_mean_zero_and_deviation_one():
    advantages = advantages_from_rewards(torch.rand(6, 5), torch.ones(6, 5).long(), "none", whiten=True)
    torch.testing.assert_close(advantages.mean(), torch.tensor(0.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(advantages.std(correction=0), torch.tensor(1.0))
