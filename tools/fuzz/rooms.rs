//! The rooms that must hold on any bytes, without the rest of the program.

#![allow(dead_code, unused_imports, unreachable_pub, unexpected_cfgs)]

#[path = "../../src/faults.rs"]
pub mod faults;
#[path = "../../src/model/mod.rs"]
pub mod model;
#[path = "../../src/pgoutput/mod.rs"]
pub mod pgoutput;
#[path = "../../src/plugin/mod.rs"]
pub mod plugin;
#[path = "../../src/segment/mod.rs"]
pub mod segment;
#[path = "../../src/transform/mod.rs"]
pub mod transform;

#[path = "."]
pub mod pg {
    #[path = "../../src/pg/conninfo/mod.rs"]
    mod conninfo;
    pub use conninfo::Conninfo;
}
