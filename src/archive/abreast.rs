//! The same done for many segments, several at a time, where each waits for a disk or a network.

use std::sync::mpsc::sync_channel;

use crate::model::Fault;

/// How many results of one thread may wait to be taken.
const AHEAD: usize = 4;

/// Does `act` for each of the things, `width` at a time, and hands what comes of it to `take`, in the order of the things. Ends early
/// where `take` gives `false`.
pub(crate) fn abreast<T: Sync, R: Send>(
    things: &[T],
    width: usize,
    act: impl Fn(&T) -> R + Sync,
    mut take: impl FnMut(&T, R) -> Result<bool, Fault>,
) -> Result<(), Fault> {
    let width = width.clamp(1, things.len().max(1));
    let act = &act;
    std::thread::scope(|scope| {
        let mut lanes = Vec::with_capacity(width);
        for lane in 0..width {
            let (sender, receiver) = sync_channel(AHEAD);
            let work = move || {
                for thing in things.iter().skip(lane).step_by(width) {
                    // Nobody takes any more.
                    if sender.send(act(thing)).is_err() {
                        return;
                    }
                }
            };
            let spawned = std::thread::Builder::new().name("abreast".into()).spawn_scoped(scope, work);
            spawned.map_err(|error| Fault::stop(format!("a thread can't be started: {error}")))?;
            lanes.push(receiver);
        }
        for (thing, lane) in things.iter().zip(lanes.iter().cycle()) {
            // A thread that has panicked lets the scope panic too.
            let Ok(result) = lane.recv() else { break };
            if !take(thing, result)? {
                break;
            }
        }
        drop(lanes);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_may_be_enough() {
        let things: Vec<u64> = (0..1000).collect();
        for width in [1, 3, 16, 2000] {
            let mut taken = Vec::new();
            let act = |thing: &u64| {
                std::thread::sleep(std::time::Duration::from_micros(thing * 7919 % 50));
                thing * 2
            };
            abreast(&things, width, act, |thing, double| {
                assert_eq!(double, thing * 2);
                taken.push(*thing);
                Ok(*thing < 700)
            })
            .unwrap();
            assert_eq!(taken, (0..=700).collect::<Vec<_>>(), "{width}");
        }
        abreast(&[] as &[u64], 4, |_| (), |_, ()| Ok(true)).unwrap();
        let refused = abreast(&things, 4, |_| (), |_, ()| Err(Fault::stop("enough")));
        assert_eq!(refused.unwrap_err().message, "enough");
    }
}
