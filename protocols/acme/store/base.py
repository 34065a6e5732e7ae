"""What the store modules share."""


def won(changed: int) -> bool:
    """Whether a compare-and-set statement changed its one row."""
    return changed == 1
