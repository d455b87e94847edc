"""Mining: which triplets and pairs of a batch a loss looks at.

    >>> import torch
    >>> from simclr.distances import pairwise_distance
    >>> z, labels = torch.tensor([[0.0], [1.0], [1.1], [5.0]]), torch.tensor([0, 0, 1, 1])
    >>> semi_hard(pairwise_distance(z), labels, margin=0.2).indices()[0]  # anchor 0, positive 1, negative 2
    tensor([0, 1, 2])

- `batch_all`: every triplet; their sum is formed without listing them (Schroff et al. 2015);
- `hard`: one an anchor, its farthest positive, its nearest negative (Hermans et al. 2017);
- `semi_hard`: one a positive pair, the nearest negative that is farther, within the margin (Schroff et al. 2015);
- `distance_weighted`: one a positive pair, drawn evenly over distance (Wu et al. 2017);
- `random_negatives`: one a positive pair, drawn evenly over negatives;
- `offline_triplets`: hard ones of a large embedded subset (Schroff et al. 2015, section 3.2).

Every strategy takes distances and labels (int64; arrays, lists and other whole numbers are made that), and is O(N^2)
in memory and, up to a logarithm, in time. None loops over samples or classes in Python, and none but
`offline_triplets` and `Triplets.indices` waits for a GPU. Ties go to the lowest index. No gradient flows through a
choice: give detached distances, and differentiate the chosen ones.
"""

from simclr.mining.all import AllTriplets, batch_all
from simclr.mining.hardest import Fallback, hard, semi_hard
from simclr.mining.offline import offline_triplets
from simclr.mining.tuples import Positives, Triplets, check_labels, positive_table
from simclr.mining.weighted import distance_weighted, distance_weights, random_negatives

__all__ = [
    "AllTriplets",
    "Fallback",
    "Positives",
    "Triplets",
    "batch_all",
    "check_labels",
    "distance_weighted",
    "distance_weights",
    "hard",
    "offline_triplets",
    "positive_table",
    "random_negatives",
    "semi_hard",
]
