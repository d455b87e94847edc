"""Every objective, one file a family: config, functional form where it makes sense, module, formula and source.

The trainer knows them by `LossConfig`, `Loss` and the `EmbeddedBatch` that each is given. The losses on labels share one call,
``loss(z (N, D), labels (N,))``, and what `LabelLoss` promises of it.
"""

from simclr.losses.arcface import ArcFaceConfig, ArcFaceLoss
from simclr.losses.batch import EmbeddedBatch
from simclr.losses.center import CenterConfig, CenterCrossEntropyLoss, CenterLoss
from simclr.losses.circle import CircleConfig, CircleLoss
from simclr.losses.contrastive import ContrastiveConfig, ContrastiveLoss
from simclr.losses.cosface import CosFaceConfig, CosFaceLoss
from simclr.losses.cross_entropy import CrossEntropyConfig, CrossEntropyLoss
from simclr.losses.focal import DistributionHead, distribution_focal_loss, integral, quality_focal_loss
from simclr.losses.focal_objectives import (
    DistributionFocalConfig,
    DistributionFocalLoss,
    QualityFocalConfig,
    QualityFocalLoss,
)
from simclr.losses.given import GivenLoss, GivenLossConfig
from simclr.losses.label_loss import LabelLoss, LabelLossConfig
from simclr.losses.lejepa import LeJEPAConfig, SIGRegLoss, sigreg
from simclr.losses.loss import Loss, LossConfig
from simclr.losses.margin import MarginConfig, MarginLoss
from simclr.losses.moco import MoCoConfig, MoCoLoss, momentum_contrast
from simclr.losses.multi_similarity import MultiSimilarityConfig, MultiSimilarityLoss
from simclr.losses.n_pair import NPairConfig, NPairLoss
from simclr.losses.ntxent.loss import NTXentConfig, NTXentLoss, nt_xent, nt_xent_reference
from simclr.losses.pair_loss import PairLoss, PairLossConfig, Pairs
from simclr.losses.proxy_anchor import ProxyAnchorConfig, ProxyAnchorLoss
from simclr.losses.quadruplet import QuadrupletConfig, QuadrupletLoss
from simclr.losses.siamese import SiameseConfig, SiameseLoss
from simclr.losses.supcon import SupConConfig, SupConLoss, sup_con
from simclr.losses.target_bins import TargetBins, choose_bins
from simclr.losses.triplet import TripletConfig, TripletLoss

__all__ = [
    "ArcFaceConfig",
    "ArcFaceLoss",
    "CenterConfig",
    "CenterCrossEntropyLoss",
    "CenterLoss",
    "CircleConfig",
    "CircleLoss",
    "ContrastiveConfig",
    "ContrastiveLoss",
    "CosFaceConfig",
    "CosFaceLoss",
    "CrossEntropyConfig",
    "CrossEntropyLoss",
    "DistributionFocalConfig",
    "DistributionFocalLoss",
    "DistributionHead",
    "EmbeddedBatch",
    "GivenLoss",
    "GivenLossConfig",
    "LabelLoss",
    "LabelLossConfig",
    "LeJEPAConfig",
    "Loss",
    "LossConfig",
    "MarginConfig",
    "MarginLoss",
    "MoCoConfig",
    "MoCoLoss",
    "MultiSimilarityConfig",
    "MultiSimilarityLoss",
    "NPairConfig",
    "NPairLoss",
    "NTXentConfig",
    "NTXentLoss",
    "PairLoss",
    "PairLossConfig",
    "Pairs",
    "ProxyAnchorConfig",
    "ProxyAnchorLoss",
    "QuadrupletConfig",
    "QuadrupletLoss",
    "QualityFocalConfig",
    "QualityFocalLoss",
    "SIGRegLoss",
    "SiameseConfig",
    "SiameseLoss",
    "SupConConfig",
    "SupConLoss",
    "TargetBins",
    "TripletConfig",
    "TripletLoss",
    "choose_bins",
    "distribution_focal_loss",
    "integral",
    "momentum_contrast",
    "nt_xent",
    "nt_xent_reference",
    "quality_focal_loss",
    "sigreg",
    "sup_con",
]
