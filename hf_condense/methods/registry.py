"""The table of methods: names, sources and requirements. Imports only the standard library."""

from __future__ import annotations

from dataclasses import dataclass

from hf_condense.config import nearest
from hf_condense.errors import ConfigError


@dataclass(frozen=True)
class MethodInfo:
    """Description of a method for users.

    Args:
        name: its name on the command line.
        title: its full name.
        where: `module:Class` of the implementation, imported on first use.
        paper: link to the paper, or "" for a baseline.
        citation: BibTeX, or "".
        pool: whether synthesis needs a pool of trained networks.
        real_pixels: whether published images contain real pixels (said on the card).
        summary: one paragraph for the card.
        wraps: whether it works over another method (`--base_method`), and so cannot be the base of one.
    """

    name: str
    title: str
    where: str
    paper: str
    citation: str
    pool: bool
    real_pixels: bool
    summary: str
    wraps: bool = False


METHODS: dict[str, MethodInfo] = {
    info.name: info
    for info in (
        MethodInfo(
            name="random",
            title="Random real images",
            where="hf_condense.methods.random:Random",
            paper="",
            citation="",
            pool=False,
            real_pixels=True,
            summary="Real training images drawn at random, the same number for every class, without replacement. "
            "The baseline that every condensation method has to beat.",
        ),
        MethodInfo(
            name="coreset",
            title="Coreset of real images",
            where="hf_condense.methods.coreset:Coreset",
            paper="",
            citation="",
            pool=True,
            real_pixels=True,
            summary="Real training images chosen class by class: by where they lie in the features of a network (herding, "
            "K-center, medoids), by how hard they are to learn (forgetting, EL2N, CAD), or the easiest ones scaled down and tiled.",
        ),
        MethodInfo(
            name="bps",
            title="BPS (Balanced Patterns Selection)",
            where="hf_condense.methods.bps:BPS",
            paper="https://github.com/BeCarefulOfYournaoke/BPS",
            citation="@inproceedings{shi2026bps,\n"
            "  title = {Balanced Dataset Distillation via Modeling Multiple Visual Pattern Distribution},\n"
            "  author = {Shi, Guanghui and Liang, Xuefeng and Wen, Qixiang},\n"
            "  booktitle = {Conference on Computer Vision and Pattern Recognition},\n"
            "  year = {2026}\n}",
            pool=True,
            real_pixels=True,
            summary="Real training images: a class is parted into patterns of like images in the features of a network, each pattern "
            "gets its share, and half of it are images near its centre, half images that a network is less sure of. The encoder "
            "that its authors train for the features is not trained here: a network at hand takes its place.",
        ),
        MethodInfo(
            name="ca2d",
            title="CA2D (crops from the images that CAD keeps)",
            where="hf_condense.methods.ca2d:CA2D",
            paper="https://arxiv.org/abs/2604.18811",
            citation="@inproceedings{dey2026rethinking,\n"
            "  title = {Rethinking Dataset Distillation: Hard Truths about Soft Labels},\n"
            "  author = {Dey, Priyam and Sahdev, Aditya and Bhati, Sunny and Mopuri, Konda Reddy and Babu, R. Venkatesh},\n"
            "  booktitle = {Conference on Computer Vision and Pattern Recognition},\n"
            "  note = {arXiv:2604.18811},\n"
            "  year = {2026}\n}",
            pool=True,
            real_pixels=True,
            summary="Real images whose class a network is least settled about near the end of a short training (compute-aware "
            "difficulty) are kept, and RDED's crops are cut from them and stitched. Published images are made of real pixels.",
        ),
        MethodInfo(
            name="ccfs",
            title="CCFS (curriculum coarse-to-fine selection)",
            where="hf_condense.methods.ccfs:CCFS",
            paper="https://arxiv.org/abs/2503.18872",
            citation="@inproceedings{chen2025ccfs,\n"
            "  title = {Curriculum Coarse-to-Fine Selection for High-IPC Dataset Distillation},\n"
            "  author = {Chen, Yanda and Chen, Gongwei and Zhang, Miao and Guan, Weili and Nie, Liqiang},\n"
            "  booktitle = {Conference on Computer Vision and Pattern Recognition},\n"
            "  note = {arXiv:2503.18872},\n"
            "  year = {2025}\n}",
            pool=True,
            real_pixels=True,
            wraps=True,
            summary="A part of the set is made by another method. The rest are real images, added in a few curricula: a student is "
            "trained on the images so far, and the easiest of the images that it gets wrong and the teacher right are added.",
        ),
        MethodInfo(
            name="cim",
            title="CIM (condensing with minimal information loss)",
            where="hf_condense.methods.cim:CIM",
            paper="https://arxiv.org/abs/2607.00916",
            citation="@inproceedings{shang2026cim,\n"
            "  title = {Condensing Large-Scale Datasets Directly with Minimal Information Loss},\n"
            "  author = {Shang, Xinyi and Sun, Peng and Shi, Bei and Wang, Zixuan and Lin, Tao},\n"
            "  booktitle = {European Conference on Computer Vision},\n"
            "  note = {arXiv:2607.00916},\n"
            "  year = {2026}\n}",
            pool=True,
            real_pixels=True,
            summary="Real images that an observer finds easy are scaled down and tiled, and optimised for a few steps until each tile, "
            "enlarged, has the features of its image at full size. Published images are real ones with small changes.",
        ),
        MethodInfo(
            name="edc",
            title="EDC (Elucidating the Design Space of Dataset Condensation)",
            where="hf_condense.methods.edc:EDC",
            paper="https://arxiv.org/abs/2404.13733",
            citation="@inproceedings{shao2024edc,\n"
            "  title = {Elucidating the Design Space of Dataset Condensation},\n"
            "  author = {Shao, Shitong and Zhou, Zikai and Chen, Huanran and Shen, Zhiqiang},\n"
            "  booktitle = {Advances in Neural Information Processing Systems},\n"
            "  year = {2024}\n}",
            pool=True,
            real_pixels=False,
            summary="Images start as real crops and are optimised so that a pool of frozen observers classifies them and "
            "sees, in every convolution and normalisation layer, the statistics of the real data and of their class. "
            "The mean logits of the pool are the soft labels.",
        ),
        MethodInfo(
            name="sre2l",
            title="SRe2L (Squeeze, Recover, Relabel)",
            where="hf_condense.methods.sre2l:SRe2L",
            paper="https://arxiv.org/abs/2306.13092",
            citation="@inproceedings{yin2023sre2l,\n"
            "  title = {Squeeze, Recover and Relabel: Dataset Condensation at ImageNet Scale From A New Perspective},\n"
            "  author = {Yin, Zeyuan and Xing, Eric and Shen, Zhiqiang},\n"
            "  booktitle = {Advances in Neural Information Processing Systems},\n"
            "  year = {2023}\n}",
            pool=True,
            real_pixels=False,
            summary="Images are optimised, each class-mixed batch on its own, until one frozen network classifies them and sees in "
            "its batch norms the statistics that it remembers of the real data. The network then labels views of them.",
        ),
        MethodInfo(
            name="cda",
            title="CDA (Curriculum Data Augmentation)",
            where="hf_condense.methods.cda:CDA",
            paper="https://arxiv.org/abs/2311.18838",
            citation="@article{yin2024cda,\n"
            "  title = {Dataset Distillation via Curriculum Data Synthesis in Large Data Era},\n"
            "  author = {Yin, Zeyuan and Shen, Zhiqiang},\n"
            "  journal = {Transactions on Machine Learning Research},\n"
            "  year = {2024}\n}",
            pool=True,
            real_pixels=False,
            summary="SRe2L with a curriculum of crops: whole images first, ever smaller parts later, so that outlines come before "
            "details.",
        ),
        MethodInfo(
            name="dwa",
            title="DWA (directed weight adjustment)",
            where="hf_condense.methods.dwa:DWA",
            paper="https://arxiv.org/abs/2409.17612",
            citation="@inproceedings{du2024dwa,\n"
            "  title = {Diversity-Driven Synthesis: Enhancing Dataset Distillation through Directed Weight Adjustment},\n"
            "  author = {Du, Jiawei and Zhang, Xin and Hu, Juncheng and Huang, Wenxin and Zhou, Joey Tianyi},\n"
            "  booktitle = {Advances in Neural Information Processing Systems},\n"
            "  year = {2024}\n}",
            pool=True,
            real_pixels=False,
            summary="SRe2L from real images, in which the weights of the network are moved a little for each batch, to where they fit "
            "its first images less, and variances weigh more than means: batches see different networks and differ more.",
        ),
        MethodInfo(
            name="delt",
            title="DELT (images that join early or late)",
            where="hf_condense.methods.delt:DELT",
            paper="https://arxiv.org/abs/2411.19946",
            citation="@inproceedings{shen2025delt,\n"
            "  title = {DELT: A Simple Diversity-driven EarlyLate Training for Dataset Distillation},\n"
            "  author = {Shen, Zhiqiang and Sherif, Ammar and Yin, Zeyuan and Shao, Shitong},\n"
            "  booktitle = {Conference on Computer Vision and Pattern Recognition},\n"
            "  year = {2025}\n}",
            pool=True,
            real_pixels=True,
            summary="CDA from real images of medium difficulty. The images of a class join the optimisation in groups, one after "
            "another, and end together: early ones become abstract, late ones stay near the real images that they began as.",
        ),
        MethodInfo(
            name="sre2lpp",
            title="SRe2L++ (real start, labels with batch statistics)",
            where="hf_condense.methods.sre2lpp:SRe2LPlus",
            paper="https://arxiv.org/abs/2501.07575",
            citation="@article{cui2025cvdd,\n"
            "  title = {Dataset Distillation via Committee Voting},\n"
            "  author = {Cui, Jiacheng and Li, Zhaoyi and Ma, Xiaochen and Bi, Xinyue and Luo, Yaxin and Shen, Zhiqiang},\n"
            "  journal = {arXiv:2501.07575},\n"
            "  year = {2025}\n}",
            pool=True,
            real_pixels=False,
            summary="SRe2L started from real patches of medium difficulty, with labels for which the teacher's batch norms use the "
            "statistics of the very batch they label.",
        ),
        MethodInfo(
            name="fadrm",
            title="FADRM (data residual matching)",
            where="hf_condense.methods.fadrm:FADRM",
            paper="https://arxiv.org/abs/2506.24125",
            citation="@inproceedings{cui2025fadrm,\n"
            "  title = {FADRM: Fast and Accurate Data Residual Matching for Dataset Distillation},\n"
            "  author = {Cui, Jiacheng and Bi, Xinyue and Luo, Yaxin and Zhao, Xiaohan and Liu, Jiacheng and Shen, Zhiqiang},\n"
            "  booktitle = {Advances in Neural Information Processing Systems},\n"
            "  year = {2025}\n}",
            pool=True,
            real_pixels=True,
            summary="SRe2L++ in blocks of steps. Where a block begins, the images are blended with the real crops that they "
            "began as: at the published share 87.5 % of a crop stays in its image.",
        ),
        MethodInfo(
            name="fadrmplus",
            title="FADRM+ (data residual matching, several networks)",
            where="hf_condense.methods.fadrm:FADRMPlus",
            paper="https://arxiv.org/abs/2506.24125",
            citation="@inproceedings{cui2025fadrm,\n"
            "  title = {FADRM: Fast and Accurate Data Residual Matching for Dataset Distillation},\n"
            "  author = {Cui, Jiacheng and Bi, Xinyue and Luo, Yaxin and Zhao, Xiaohan and Liu, Jiacheng and Shen, Zhiqiang},\n"
            "  booktitle = {Advances in Neural Information Processing Systems},\n"
            "  year = {2025}\n}",
            pool=True,
            real_pixels=True,
            summary="FADRM with several networks that take turns, one a step, and label the images together. Its images too keep "
            "most of the real crops that they began as.",
        ),
        MethodInfo(
            name="cvdd",
            title="CV-DD (committee voting)",
            where="hf_condense.methods.cvdd:CVDD",
            paper="https://arxiv.org/abs/2501.07575",
            citation="@article{cui2025cvdd,\n"
            "  title = {Dataset Distillation via Committee Voting},\n"
            "  author = {Cui, Jiacheng and Li, Zhaoyi and Ma, Xiaochen and Bi, Xinyue and Luo, Yaxin and Shen, Zhiqiang},\n"
            "  journal = {arXiv:2501.07575},\n"
            "  year = {2025}\n}",
            pool=True,
            real_pixels=False,
            summary="SRe2L++ in which each batch of images is optimised against several networks at once, another committee of them "
            "for each batch, weighted by how well students do on data made with each network alone.",
        ),
        MethodInfo(
            name="wmdd",
            title="WMDD (distillation via the Wasserstein metric)",
            where="hf_condense.methods.wmdd:WMDD",
            paper="https://arxiv.org/abs/2311.18531",
            citation="@inproceedings{liu2025wmdd,\n"
            "  title = {Dataset Distillation via the Wasserstein Metric},\n"
            "  author = {Liu, Haoyang and Li, Yijiang and Xing, Tiancheng and Wang, Peiran and Dalal, Vibhu and Li, Luwei and "
            "He, Jingrui and Wang, Haohan},\n"
            "  booktitle = {International Conference on Computer Vision},\n"
            "  year = {2025}\n}",
            pool=True,
            real_pixels=False,
            summary="In the features of a frozen network, the real images of a class are stood for by as many points of equal mass as "
            "it gets images. Each image is optimised towards its point, and statistics are matched class by class.",
        ),
        MethodInfo(
            name="gvbsm",
            title="G-VBSM (various backbones, statistics of convolutions too)",
            where="hf_condense.methods.gvbsm:GVBSM",
            paper="https://arxiv.org/abs/2311.17950",
            citation="@inproceedings{shao2024gvbsm,\n"
            "  title = {Generalized Large-Scale Data Condensation via Various Backbone and Statistical Matching},\n"
            "  author = {Shao, Shitong and Yin, Zeyuan and Zhou, Muxin and Zhang, Xindong and Shen, Zhiqiang},\n"
            "  booktitle = {Conference on Computer Vision and Pattern Recognition},\n"
            "  year = {2024}\n}",
            pool=True,
            real_pixels=False,
            summary="Several backbones in turn pull the images towards the real statistics at their convolutions and batch norms, and "
            "a densification term keeps images of a class apart. All backbones together label them.",
        ),
        MethodInfo(
            name="rded",
            title="RDED (realistic crops, stitched)",
            where="hf_condense.methods.rded:RDED",
            paper="https://arxiv.org/abs/2312.03526",
            citation="@inproceedings{sun2024rded,\n"
            "  title = {On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation Paradigm},\n"
            "  author = {Sun, Peng and Shi, Bei and Yu, Daiwei and Lin, Tao},\n"
            "  booktitle = {Conference on Computer Vision and Pattern Recognition},\n"
            "  year = {2024}\n}",
            pool=True,
            real_pixels=True,
            summary="No optimisation: of many crops of real images those are kept that an observer finds easiest to tell the class of, "
            "and several are stitched into one image. Published images are made of real pixels.",
        ),
        MethodInfo(
            name="teddy",
            title="Teddy (Taylor-approximated matching under weak models)",
            where="hf_condense.methods.teddy:Teddy",
            paper="https://arxiv.org/abs/2410.07579",
            citation="@inproceedings{yu2024teddy,\n"
            "  title = {Teddy: Efficient Large-Scale Dataset Distillation via Taylor-Approximated Matching},\n"
            "  author = {Yu, Ruonan and Liu, Songhua and Ye, Jingwen and Wang, Xinchao},\n"
            "  booktitle = {European Conference on Computer Vision},\n"
            "  year = {2024}\n}",
            pool=True,
            real_pixels=False,
            summary="First-order matching turns the two-level problem into one of feature statistics, seen through a pool of weak models "
            "made from a single network: early checkpoints of its training, or pruned and briefly tuned copies.",
        ),
        MethodInfo(
            name="dc",
            title="DC (gradient matching)",
            where="hf_condense.methods.dc:DC",
            paper="https://arxiv.org/abs/2006.05929",
            citation="@inproceedings{zhao2021dc,\n"
            "  title = {Dataset Condensation with Gradient Matching},\n"
            "  author = {Zhao, Bo and Mopuri, Konda Reddy and Bilen, Hakan},\n"
            "  booktitle = {International Conference on Learning Representations},\n"
            "  year = {2021}\n}",
            pool=False,
            real_pixels=False,
            summary="Images are optimised until, in networks that are trained on them, the gradient of each class has the "
            "direction of the gradient of real images of that class.",
        ),
        MethodInfo(
            name="dsa",
            title="DSA (gradient matching with siamese augmentation)",
            where="hf_condense.methods.dc:DSA",
            paper="https://arxiv.org/abs/2102.08259",
            citation="@inproceedings{zhao2021dsa,\n"
            "  title = {Dataset Condensation with Differentiable Siamese Augmentation},\n"
            "  author = {Zhao, Bo and Bilen, Hakan},\n"
            "  booktitle = {International Conference on Machine Learning},\n"
            "  year = {2021}\n}",
            pool=False,
            real_pixels=False,
            summary="DC in which the real and the synthetic images of a class go through the same random augmentation before "
            "their gradients are compared. Students are trained with that augmentation too.",
        ),
        MethodInfo(
            name="dm",
            title="DM (distribution matching)",
            where="hf_condense.methods.dm:DM",
            paper="https://arxiv.org/abs/2110.04181",
            citation="@inproceedings{zhao2023dm,\n"
            "  title = {Dataset Condensation with Distribution Matching},\n"
            "  author = {Zhao, Bo and Bilen, Hakan},\n"
            "  booktitle = {Winter Conference on Applications of Computer Vision},\n"
            "  year = {2023}\n}",
            pool=False,
            real_pixels=False,
            summary="Images of a class are optimised until their mean feature is that of the real images of the class, in a new "
            "untrained network at every step. No network is ever trained.",
        ),
        MethodInfo(
            name="ncfm",
            title="NCFM (characteristic function matching)",
            where="hf_condense.methods.ncfm:NCFM",
            paper="https://arxiv.org/abs/2502.20653",
            citation="@inproceedings{wang2025ncfm,\n"
            "  title = {Dataset Distillation with Neural Characteristic Function: A Minmax Perspective},\n"
            "  author = {Wang, Shaobo and Yang, Yicun and Liu, Zhiyuan and Sun, Chenghao and Hu, Xuming and He, Conghui and "
            "Zhang, Linfeng},\n"
            "  booktitle = {Conference on Computer Vision and Pattern Recognition},\n"
            "  year = {2025}\n}",
            pool=False,
            real_pixels=False,
            summary="Tiles in stored images are optimised until the characteristic function of their features is that of real images of "
            "the class, in networks between the untrained and the trained end of a training, and until trained networks know "
            "them. Frequencies are drawn; the paper's network that chooses them is left out, as in its published settings.",
        ),
        MethodInfo(
            name="idc",
            title="IDC (multi-formation gradient matching)",
            where="hf_condense.methods.idc:IDC",
            paper="https://arxiv.org/abs/2205.14959",
            citation="@inproceedings{kim2022idc,\n"
            "  title = {Dataset Condensation via Efficient Synthetic-Data Parameterization},\n"
            "  author = {Kim, Jang-Hyun and Kim, Jinuk and Oh, Seong Joon and Yun, Sangdoo and Song, Hwanjun and "
            "Jeong, Joonhyun and Ha, Jung-Woo and Song, Hyun Oh},\n"
            "  booktitle = {International Conference on Machine Learning},\n"
            "  year = {2022}\n}",
            pool=False,
            real_pixels=False,
            summary="Each stored image holds several training images as tiles, which are enlarged when students are trained. "
            "Tiles are optimised until they move the kernels of networks, trained on real data, as real images do.",
        ),
        MethodInfo(
            name="dream",
            title="DREAM (matching of representative images)",
            where="hf_condense.methods.idc:DREAM",
            paper="https://arxiv.org/abs/2302.14416",
            citation="@inproceedings{liu2023dream,\n"
            "  title = {DREAM: Efficient Dataset Distillation by Representative Matching},\n"
            "  author = {Liu, Yanqing and Gu, Jianyang and Wang, Kai and Zhu, Zheng and Jiang, Wei and You, Yang},\n"
            "  booktitle = {International Conference on Computer Vision},\n"
            "  year = {2023}\n}",
            pool=False,
            real_pixels=False,
            summary="IDC, in which the real images of a step are those nearest to the k-means centroids of their class, in the "
            "features of the network as it is. The first images are chosen in the same way.",
        ),
        MethodInfo(
            name="mtt",
            title="MTT (matching training trajectories)",
            where="hf_condense.methods.mtt:MTT",
            paper="https://arxiv.org/abs/2203.11932",
            citation="@inproceedings{cazenavette2022mtt,\n"
            "  title = {Dataset Distillation by Matching Training Trajectories},\n"
            "  author = {Cazenavette, George and Wang, Tongzhou and Torralba, Antonio and Efros, Alexei A. and Zhu, Jun-Yan},\n"
            "  booktitle = {Conference on Computer Vision and Pattern Recognition},\n"
            "  year = {2022}\n}",
            pool=False,
            real_pixels=False,
            summary="Networks are trained on the real images and their weights kept after every epoch. Images, and the learning rate "
            "that goes with them, are optimised until a few steps on them take a network where epochs on real images took it.",
        ),
        MethodInfo(
            name="tesla",
            title="TESLA (trajectory matching with assigned soft labels)",
            where="hf_condense.methods.tesla:TESLA",
            paper="https://arxiv.org/abs/2211.10586",
            citation="@inproceedings{cui2023tesla,\n"
            "  title = {Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory},\n"
            "  author = {Cui, Justin and Wang, Ruochen and Si, Si and Hsieh, Cho-Jui},\n"
            "  booktitle = {International Conference on Machine Learning},\n"
            "  year = {2023}\n}",
            pool=False,
            real_pixels=False,
            summary="MTT whose images carry soft labels of the network that they lead to. Memory does not grow with the number of "
            "steps that are matched.",
        ),
        MethodInfo(
            name="datm",
            title="DATM (difficulty-aligned trajectory matching)",
            where="hf_condense.methods.datm:DATM",
            paper="https://arxiv.org/abs/2310.05773",
            citation="@inproceedings{guo2024lossless,\n"
            "  title = {Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching},\n"
            "  author = {Guo, Ziyao and Wang, Kai and Cazenavette, George and Li, Hui and Zhang, Kaipeng and You, Yang},\n"
            "  booktitle = {International Conference on Learning Representations},\n"
            "  year = {2024}\n}",
            pool=False,
            real_pixels=False,
            summary="MTT in which few images match early epochs of the experts and many images late ones, and in which soft labels "
            "are learned together with the images.",
        ),
        MethodInfo(
            name="lgm",
            title="LGM (linear gradient matching)",
            where="hf_condense.methods.lgm:LGM",
            paper="https://arxiv.org/abs/2511.16674",
            citation="@inproceedings{cazenavette2025lgm,\n"
            "  title = {Dataset Distillation for Pre-Trained Self-Supervised Vision Models},\n"
            "  author = {Cazenavette, George and Torralba, Antonio and Sitzmann, Vincent},\n"
            "  booktitle = {Advances in Neural Information Processing Systems},\n"
            "  year = {2025}\n}",
            pool=True,
            real_pixels=False,
            summary="Images are optimised until the gradient of a new linear head on the features of a frozen network has the "
            "direction of the gradient of real images. They are made for linear probes, on that network first of all, and not "
            "for networks that are trained from scratch.",
        ),
        MethodInfo(
            name="mosaic",
            title="Mosaic (ours)",
            where="hf_condense.methods.mosaic:Mosaic",
            paper="",
            citation="",
            pool=True,
            real_pixels=True,
            summary="Real images that an observer finds easy are scaled down, several to a stored one, and optimised for some steps until each, "
            "enlarged again as students see it, has the features of its image at full size. Parts of IDC (arXiv:2205.14959) and CIM "
            "(arXiv:2607.00916). Published images are real ones with small changes.",
        ),
        MethodInfo(
            name="pdd",
            title="PDD (Progressive Dataset Distillation)",
            where="hf_condense.methods.pdd.method:PDD",
            paper="https://arxiv.org/abs/2310.06982",
            citation="@inproceedings{chen2024pdd,\n"
            "  title = {Data Distillation Can Be Like Vodka: Distilling More Times For Better Quality},\n"
            "  author = {Chen, Xuxi and Yang, Yu and Wang, Zhangyang and Mirzasoleiman, Baharan},\n"
            "  booktitle = {International Conference on Learning Representations},\n"
            "  year = {2024}\n}",
            pool=False,
            real_pixels=False,
            wraps=True,
            summary="Images are made in stages. Each stage adds images that are optimised beside those of the stages before, which do "
            "not move, in networks that were trained on those. Students go through the stages in the same order.",
        ),
    )
}


def list_methods() -> list[str]:
    """Names of all methods."""
    return sorted(METHODS)


def method_info(name: str) -> MethodInfo:
    """Raises ConfigError for an unknown name, with the near ones."""
    if name not in METHODS:
        raise ConfigError("method", name, ", ".join(list_methods()), nearest(name, list_methods()))
    return METHODS[name]


def register(info: MethodInfo) -> None:
    """Adds a method from outside this library to the table, before a trainer is made.

    Raises:
        ConfigError: the name is taken, or `where` is not of the form `module:Class`.
    """
    taken = METHODS.get(info.name)
    if taken is not None:
        raise ConfigError(
            "method", info.name, f"a name of its own ({taken.where} has this one)", "choose another name"
        )
    module, _, cls = info.where.partition(":")
    if not (module and cls.isidentifier()):
        raise ConfigError("where", info.where, "module:Class", 'write for example "my_package.mine:Mine"')
    METHODS[info.name] = info
