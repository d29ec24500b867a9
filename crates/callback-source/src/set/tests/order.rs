use super::*;

#[test]
fn the_order_of_the_answers_of_one_refresh_does_not_matter() {
    let outcomes = || {
        [
            (0, Family::V4, Ok(answer(60, &["20.0.0.1"]))),
            (
                0,
                Family::V6,
                Err(ResolveError::new(ResolveErrorKind::NoData)),
            ),
            (
                1,
                Family::V4,
                Err(ResolveError::new(ResolveErrorKind::NxDomain)),
            ),
            (
                1,
                Family::V6,
                Err(ResolveError::new(ResolveErrorKind::NxDomain)),
            ),
            (
                2,
                Family::V4,
                Err(ResolveError::new(ResolveErrorKind::Timeout)),
            ),
        ]
    };
    let verdicts = |order: &[usize]| {
        let mut world = World::new(3);
        for at in order {
            let (number, family, outcome) = outcomes()[*at].clone();
            world.apply(number, family, outcome);
        }
        let verdicts = ["20.0.0.1", "20.0.9.9", "2a01::1"].map(|peer| world.verdict(peer));
        let dues: Vec<_> = world.set.questions().collect();
        (
            verdicts,
            dues.into_iter()
                .map(|(_, due)| due - world.start)
                .collect::<Vec<_>>(),
        )
    };
    let first = verdicts(&[0, 1, 2, 3, 4]);
    for order in [
        [4, 3, 2, 1, 0],
        [2, 0, 4, 1, 3],
        [1, 2, 3, 4, 0],
        [3, 1, 0, 4, 2],
    ] {
        assert_eq!(verdicts(&order), first, "{order:?}");
    }
}
