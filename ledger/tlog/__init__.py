"""The transparency log: how anyone can check that the record was never touched.

Pure functions, no I/O and no clock, but for the module `log`. Read them in this order:

    merkle             the tree: hashes, inclusion and consistency proofs, verifying them
    note               signed notes: keys, signatures, cosignatures
    checkpoint         what a log signs: origin, size, root; and which key may sign which size
    leaf               what the log commits to of one event
    tiles              how tree and entries are cut into files that never change
    proof              one entry's proof in one file, and the policy that it is judged by
    witness_protocol   what a log and its witnesses say to each other, and when a witness agrees
    verify             a whole record against what was signed: what was touched, where, and how
    tiled              a record that is cut into tiles, to be verified
    log                where the log is kept: rows that are written with the events

    LogError           everything here raises one of these
    ├── LogFormatError malformed: it is not what it says it is
    └── ProofInvalid   well formed, but does not verify
"""
