"""From tiles on a disk to batches on a device. The order in which to read the modules:

`layout` (what a person states) and `sources` list the tiles, `classes` and `photographs` say what
each one is, `split` divides them, `tiles` decodes them, `packing` and `pack` keep them on a disk,
`batches` feeds the training; `prepare` runs all of it but the last, and `synthetic` draws a demo.
`reading` opens what strangers hand in, and is the only part that has to expect hostile files.
"""
