//! Ranges of addresses that do not overlap, and which of them holds an address.

/// Sorted ranges.
///
/// A table of equal steps tells in which part of them to search, so that the length of the search
/// hardly depends on their number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ranges<K> {
    first: Box<[K]>,
    /// Inclusive.
    last: Box<[K]>,
    /// How many ranges begin before each step from `start` on, and before its end.
    steps: Box<[(u32, u32)]>,
    start: K,
    shift: u32,
}

/// An address as a number.
pub(crate) trait Key: Copy + Default + Ord {
    fn next(self) -> Option<Self>;

    /// The number before one that is not the least.
    fn before(self) -> Self;

    /// How many whole steps of `2^shift` a key is after `start`; `None` before it.
    fn steps_after(self, start: Self, shift: u32) -> Option<usize>;

    /// A shift by which `self` is fewer than `2 * steps` steps after `start`, if later.
    fn shift_for(self, start: Self, steps: usize) -> u32;
}

impl<K: Key> Ranges<K> {
    /// The ranges must be sorted and must not overlap.
    pub(crate) fn new(ranges: impl IntoIterator<Item = (K, K)>) -> Self {
        let (first, last): (Vec<_>, Vec<_>) = ranges.into_iter().unzip();
        let start = first.first().copied().unwrap_or_default();
        let shift = last
            .last()
            .map_or(0, |end| end.shift_for(start, first.len()));
        let step = |key: &K| key.steps_after(start, shift);
        let mut before = 0;
        let steps = 0..last.last().and_then(step).map_or(0, |last| last + 1);
        let steps = steps.map(|this| {
            let from = before;
            let begin = first[from as usize..].iter();
            let here = begin.take_while(|first| step(first) == Some(this)).count();
            before += u32::try_from(here).expect("no more than there is memory for");
            (from, before)
        });
        Self {
            steps: steps.collect(),
            start,
            shift,
            first: first.into(),
            last: last.into(),
        }
    }

    /// Where the range stands that holds a key.
    pub(crate) fn find(&self, key: K) -> Option<usize> {
        let step = key.steps_after(self.start, self.shift)?;
        let (from, to) = *self.steps.get(step)?;
        let begin = self.first.get(from as usize..to as usize)?;
        let after = from as usize + begin.partition_point(|first| *first <= key);
        let at = after.checked_sub(1)?;
        (key <= *self.last.get(at)?).then_some(at)
    }

    pub(crate) fn len(&self) -> usize {
        self.first.len()
    }
}

impl Key for u32 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }

    fn before(self) -> Self {
        self - 1
    }

    fn steps_after(self, start: Self, shift: u32) -> Option<usize> {
        Some((self.checked_sub(start)? >> shift) as usize)
    }

    fn shift_for(self, start: Self, steps: usize) -> u32 {
        let bits = |number: u64| u64::BITS - number.leading_zeros();
        bits(u64::from(self - start)).saturating_sub(bits(steps as u64))
    }
}

impl Key for u128 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }

    fn before(self) -> Self {
        self - 1
    }

    fn steps_after(self, start: Self, shift: u32) -> Option<usize> {
        usize::try_from(self.checked_sub(start)? >> shift).ok()
    }

    fn shift_for(self, start: Self, steps: usize) -> u32 {
        let bits = |number: Self| Self::BITS - number.leading_zeros();
        bits(self - start).saturating_sub(bits(steps as Self))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The ends of ranges, taken in pairs.
    fn ranges<K: Key + Copy>(mut ends: Vec<K>) -> Vec<(K, K)> {
        ends.sort_unstable();
        ends.dedup();
        ends.chunks_exact(2)
            .map(|pair| (pair[0], pair[1]))
            .collect()
    }

    fn check<K: Key + std::fmt::Debug>(ranges: &[(K, K)], key: K) {
        let found = Ranges::new(ranges.iter().copied()).find(key);
        let holds = |(first, last): &(K, K)| (*first..=*last).contains(&key);
        assert_eq!(found, ranges.iter().position(holds), "{key:?}");
    }

    /// Numbers in a few clusters, so that some steps hold many ranges and most hold none.
    fn clustered() -> impl Strategy<Value = u32> {
        (
            prop::sample::select(vec![0, 1 << 16, 0x0a00_0000, u32::MAX - 999]),
            0..1_000_u32,
        )
            .prop_map(|(cluster, offset)| cluster + offset)
    }

    proptest! {
        #[test]
        fn finds_what_a_look_at_each_range_finds(
            ends in prop::collection::vec(clustered(), 0..600),
            keys in prop::collection::vec(prop_oneof![clustered(), any::<u32>()], 20),
        ) {
            let v4 = ranges(ends.clone());
            let wide = |end: u32| u128::from(end).rotate_right(20) | 1;
            let v6 = ranges(ends.iter().copied().map(wide).collect());
            for key in keys.iter().chain(&ends[..ends.len().min(20)]) {
                check(&v4, *key);
                check(&v6, wide(*key));
            }
        }
    }

    #[test]
    fn finds_both_ends_of_every_range_among_many() {
        let many: Vec<_> = (0..100_000_u32)
            .map(|at| (at * 40_000, at * 40_000 + 9))
            .collect();
        let all = Ranges::new(many.iter().copied());
        for (at, (first, last)) in many.iter().enumerate() {
            assert_eq!(all.find(*first), Some(at));
            assert_eq!(all.find(*last), Some(at));
            assert_eq!(all.find(last + 1), None);
            assert_eq!(all.find(first.wrapping_sub(1)), None);
        }
        assert!(all.steps.len() <= 2 * many.len() + 2, "{}", all.steps.len());
    }

    #[test]
    fn the_first_and_the_last_address_can_be_held() {
        let few = [(0, 0), (7, u32::MAX)];
        for key in [0, 1, 6, 7, u32::MAX] {
            check(&few, key);
        }
        check(&[(0, u128::MAX)], u128::MAX);
        check::<u32>(&[], 0);
    }
}
