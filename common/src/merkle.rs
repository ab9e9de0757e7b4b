//! The Merkle tree hash of RFC 6962 (section 2.1) over SHA-256, with audit paths.

use crate::id::Hash;

/// Hash of a leaf: `SHA-256(0x00 ‖ parts)`.
#[must_use]
pub fn leaf(parts: &[&[u8]]) -> Hash {
    let mut all: Vec<&[u8]> = Vec::with_capacity(parts.len() + 1);
    all.push(&[0]);
    all.extend_from_slice(parts);
    Hash::of(&all)
}

fn node(left: &Hash, right: &Hash) -> Hash {
    Hash::of(&[&[1], &left.0, &right.0])
}

/// Where a tree of `n > 1` leaves is cut: the largest power of two below `n`.
const fn split(n: usize) -> usize {
    1 << (usize::BITS - 1 - (n - 1).leading_zeros())
}

/// The tree hash. The tree of no leaves is `SHA-256("")`, as the RFC has it.
#[must_use]
pub fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Hash::of(&[]),
        [only] => *only,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            node(&root(left), &root(right))
        }
    }
}

/// The audit path of a leaf, from the leaf upwards; `None` when there is no such leaf.
#[must_use]
pub fn audit_path(leaves: &[Hash], index: usize) -> Option<Vec<Hash>> {
    if index >= leaves.len() {
        return None;
    }
    if leaves.len() == 1 {
        return Some(Vec::new());
    }
    let (left, right) = leaves.split_at(split(leaves.len()));
    let (mut path, sibling) = if index < left.len() {
        (audit_path(left, index)?, root(right))
    } else {
        (audit_path(right, index - left.len())?, root(left))
    };
    path.push(sibling);
    Some(path)
}

/// The tree hash that follows from a leaf and its audit path (RFC 9162, section 2.1.3.2); `None` when the path
/// has not the length that index and size demand.
#[must_use]
pub fn root_from_path(leaf: Hash, index: u64, size: u64, path: &[Hash]) -> Option<Hash> {
    if index >= size {
        return None;
    }
    let (mut at, mut last, mut hash) = (index, size - 1, leaf);
    for sibling in path {
        if last == 0 {
            return None;
        }
        if at & 1 == 1 || at == last {
            hash = node(sibling, &hash);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            hash = node(&hash, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(n: usize) -> Vec<Hash> {
        (0..n).map(|i| leaf(&[&i.to_be_bytes()])).collect()
    }

    #[test]
    fn every_leaf_of_every_tree_proves_itself_and_nothing_else() {
        for n in 1..=40 {
            let leaves = leaves(n);
            let root = root(&leaves);
            for i in 0..n {
                let path = audit_path(&leaves, i).unwrap();
                let (index, size) = (i as u64, n as u64);
                assert_eq!(root_from_path(leaves[i], index, size, &path), Some(root));
                assert_ne!(
                    root_from_path(leaf(&[b"other"]), index, size, &path),
                    Some(root)
                );
                for wrong in 0..n as u64 {
                    if wrong != index {
                        assert_ne!(
                            root_from_path(leaves[i], wrong, size, &path),
                            Some(root),
                            "{n} {i} {wrong}"
                        );
                    }
                }
                if !path.is_empty() {
                    assert_eq!(root_from_path(leaves[i], index, size, &path[1..]), None);
                }
            }
            assert_eq!(audit_path(&leaves, n), None);
        }
    }

    #[test]
    fn the_empty_tree_and_known_vectors_agree_with_the_rfc() {
        // Test vectors of the reference implementation of RFC 6962: inputs 00, "", 10.
        assert_eq!(root(&[]), Hash::of(&[b""]));
        let two = root(&[leaf(&[b""]), leaf(&[&[0]])]);
        let text: String = two.0.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            text,
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"
        );
    }
}
