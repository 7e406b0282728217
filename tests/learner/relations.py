"""What the tests of updates share."""


def learn(learner, state, batches):
    """An update as a step of training makes it: annotated first."""
    return learner.update(state, learner.annotate(state, batches))
