//! Life without a coordinator, shows 2, 3 and 7: evictions, suspensions and rosters go from member to member.

mod bridge;
mod owner;
mod town;
mod withheld;
mod witness;
