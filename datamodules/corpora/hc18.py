"""HC18: fetal heads with pixel size and head circumference (van den Heuvel et al. 2018)."""

from datamodules.corpora.corpus import Corpus

HC18_TABLE = "training_set_pixel_size_and_HC.csv"
HC18_IMAGES = "training_set"
HC18 = Corpus(
    name="hc18",
    title="HC18",
    table=HC18_TABLE,
    columns={"image": "filename", "pixel_size_mm": "pixel size(mm)", "hc_mm": "head circumference (mm)"},
    # 010_HC.png, 010_2HC.png, ... 010_4HC.png are images of one patient.
    patient=lambda rows: rows["filename"].str.extract(r"(?i)^(\d+)_\d*HC(?:\.\w+)?$", expand=False),
    images=HC18_IMAGES,
    remedy=f"expected {HC18_TABLE} beside a folder {HC18_IMAGES}/ of 001_HC.png, 010_2HC.png, ...; "
    "download both from https://hc18.grand-challenge.org (doi:10.5281/zenodo.1327317), and give their folder "
    "with HC18_ROOT=folder",
    source="https://doi.org/10.5281/zenodo.1327317",
    licence="CC BY 4.0",
    citation="van den Heuvel et al., PLoS ONE 13(8), 2018, doi:10.1371/journal.pone.0200412",
    published={"images": 999, "patients": 806, "plane brain": 999},
    val_share=0.1,
    test_share=0.2,
    variable="HC18_ROOT",
)
read_hc18 = HC18.read
