"""Generated data: seeded, written in the true layout of a published data set, exact by construction; always called
synthetic.

`GENERATORS` maps a format (a key of `ppvision.data.DATASETS`) to its `write(root, num_train, num_val, size, seed=0)`,
which writes the splits `train` and `val`. To add one: the function, a row. A generator may write `train.list` and
`val.list` itself (one sample per line, first column the image); else `make` writes them.
"""

from __future__ import annotations

GENERATORS: dict[str, str] = {
    "cityscapes": "ppvision.data.samples.synthetic.street:write",
    "coco": "ppvision.data.samples.synthetic.coco:write_shapes",
    "imagefolder": "ppvision.data.samples.synthetic.objects:write",
}
