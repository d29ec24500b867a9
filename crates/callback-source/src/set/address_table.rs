//! Search in sorted addresses, in a time that hardly grows with the number of addresses.

/// Sorted entries, with a table that usually narrows a search to a few entries.
///
/// The range of the keys is divided into steps of equal size. There are about as many steps as entries. The table maps
/// each step to its entries. See `docs/design.md` for the alternatives.
#[derive(Clone, Debug)]
pub(crate) struct AddressTable<K, V> {
    entries: Box<[(K, V)]>,
    start: K,
    shift: u32,
    /// For each step of `2^shift` keys, beginning at `start`: the position of the first entry in the step, and the
    /// position of the first entry after the step.
    steps: Box<[(u32, u32)]>,
}

/// An address as an integer.
pub(crate) trait Key: Copy + Default + Ord {
    /// Returns the number of whole steps of `2^shift` from `start` to this key, or `None` if the key is less than
    /// `start`.
    fn steps_after(self, start: Self, shift: u32) -> Option<usize>;

    /// Returns the number of bits of the distance from `start` to this key. This key must not be less than `start`.
    fn bits_after(self, start: Self) -> u32;
}

impl<K: Key, V> AddressTable<K, V> {
    /// Creates a table of these entries, which must be sorted. Several entries can have the same key.
    pub(crate) fn new(entries: impl Into<Box<[(K, V)]>>) -> Self {
        let entries = entries.into();
        let (Some((start, _)), Some((end, _))) = (entries.first(), entries.last()) else {
            return Self::default();
        };
        let start = *start;
        // There are at most twice as many steps as entries. If all keys differ, there are more than half as many.
        let shift = end
            .bits_after(start)
            .saturating_sub(usize::BITS - entries.len().leading_zeros());
        let step = |key: K| {
            key.steps_after(start, shift)
                .expect("the entries are sorted")
        };
        let mut steps = vec![(0, 0); step(*end) + 1];
        for (key, _) in &entries {
            steps[step(*key)].1 += 1;
        }
        let mut before = 0;
        for (from, to) in &mut steps {
            *from = before;
            *to += before;
            before = *to;
        }
        Self {
            entries,
            start,
            shift,
            steps: steps.into(),
        }
    }

    /// Returns the entries whose keys are not greater than this key.
    pub(crate) fn up_to(&self, key: K) -> &[(K, V)] {
        let Some(step) = key.steps_after(self.start, self.shift) else {
            return &[];
        };
        let Some((from, to)) = self.steps.get(step) else {
            return &self.entries;
        };
        let (from, to) = (*from as usize, *to as usize);
        let here = self.entries.get(from..to).unwrap_or_default();
        let up_to = from + here.partition_point(|(here, _)| *here <= key);
        self.entries.get(..up_to).unwrap_or_default()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &V> {
        self.entries.iter().map(|(_, value)| value)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl<K: Key, V> Default for AddressTable<K, V> {
    fn default() -> Self {
        Self {
            entries: Box::default(),
            start: K::default(),
            shift: 0,
            steps: Box::default(),
        }
    }
}

impl Key for u32 {
    fn steps_after(self, start: Self, shift: u32) -> Option<usize> {
        Some((self.checked_sub(start)? >> shift) as usize)
    }

    fn bits_after(self, start: Self) -> u32 {
        Self::BITS - (self - start).leading_zeros()
    }
}

impl Key for u128 {
    fn steps_after(self, start: Self, shift: u32) -> Option<usize> {
        let steps = self.checked_sub(start)? >> shift;
        // A number of steps that does not fit into `usize` is beyond the end of every table.
        Some(usize::try_from(steps).unwrap_or(usize::MAX))
    }

    fn bits_after(self, start: Self) -> u32 {
        Self::BITS - (self - start).leading_zeros()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check<K: Key + std::fmt::Debug>(mut keys: Vec<K>, asked: &[K]) {
        keys.sort_unstable();
        let sorted = AddressTable::new(keys.iter().map(|key| (*key, ())).collect::<Vec<_>>());
        for key in asked.iter().chain(&keys) {
            let up_to = keys.iter().filter(|listed| *listed <= key).count();
            assert_eq!(sorted.up_to(*key).len(), up_to, "{key:?} in {keys:?}");
        }
    }

    /// Generates numbers in a few clusters, so that some steps have many keys and most steps have none.
    fn clustered() -> impl Strategy<Value = u32> {
        let clusters = vec![0, 1 << 16, 0x0a00_0000, u32::MAX - 999];
        (prop::sample::select(clusters), 0..1_000_u32).prop_map(|(cluster, at)| cluster + at)
    }

    proptest! {
        #[test]
        fn finds_the_same_entries_as_a_linear_search(
            keys in prop::collection::vec(clustered(), 0..300),
            asked in prop::collection::vec(prop_oneof![clustered(), any::<u32>()], 20),
            wide in prop::collection::vec(any::<u128>(), 0..20),
        ) {
            let spread = |key: &u32| u128::from(*key).rotate_right(20) | 1;
            let high: Vec<_> = keys.iter().map(spread).collect();
            check(high, &asked.iter().map(spread).chain(wide.iter().copied()).collect::<Vec<_>>());
            check(wide, &asked.iter().map(spread).collect::<Vec<_>>());
            check(keys, &asked);
        }
    }

    #[test]
    fn the_first_and_the_last_address_can_be_keys() {
        let ends = [0, 1, 6, 7, 8, u32::MAX - 1, u32::MAX];
        check(vec![], &ends);
        check(vec![0], &ends);
        check(vec![u32::MAX], &ends);
        check(vec![0, 7, 7, u32::MAX], &ends);
        check(vec![0, u128::MAX], &[0, 1, 1 << 64, u128::MAX - 1]);
    }

    #[test]
    fn there_are_at_most_twice_as_many_steps_as_keys() {
        for keys in [1_u32, 2, 3, 16, 17, 1_000, 100_000] {
            for stride in [1, 3, 40_000] {
                let entries: Vec<_> = (0..keys).map(|at| (at * stride, ())).collect();
                let sorted = AddressTable::new(entries);
                assert!(
                    sorted.steps.len() <= 2 * keys as usize,
                    "{keys} by {stride}"
                );
            }
        }
    }
}
