//! Python face of agentmem: types, errors and ownership at the border, and nothing else.
//!
//! What can wait releases the GIL first: the engine may be asking a policy written in Python, and
//! that needs it.

mod agent;
mod arguments;
mod conversation;
mod corpus;
mod environment;
mod errors;
mod inspect;
mod policy;
mod smu;
mod store;

use pyo3::prelude::*;

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<store::Store>()?;
    module.add_class::<agent::Agent>()?;
    module.add_class::<inspect::Pieces>()?;
    module.add_class::<smu::Smu>()?;
    module.add_class::<smu::View>()?;
    module.add_class::<conversation::Conversation>()?;
    module.add_class::<conversation::Messages>()?;
    module.add_function(wrap_pyfunction!(store::open_store, module)?)?;
    module.add_function(wrap_pyfunction!(store::connect_store, module)?)?;
    module.add_class::<corpus::Corpus>()?;
    module.add_class::<corpus::Tally>()?;
    module.add_class::<corpus::MessageSet>()?;
    module.add_function(wrap_pyfunction!(corpus::equal_share, module)?)?;
    module.add_function(wrap_pyfunction!(environment::environment_block, module)?)?;
    Ok(())
}
