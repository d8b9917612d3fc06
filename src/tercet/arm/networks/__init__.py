"""Networks: what a policy, the critic and the reward model are made of, and the files they are saved in."""
