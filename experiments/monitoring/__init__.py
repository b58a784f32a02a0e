"""Are faults of a run noticed, and healthy runs left alone?"""
