"""Does a staged rollout keep its word when it is looked at every day?"""
