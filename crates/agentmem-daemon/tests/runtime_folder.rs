//! The rule of where the daemon is, held to the same table as Python's.

use agentmem_core::runtime;
use serde_json::Value;
use std::path::PathBuf;

#[test]
fn the_socket_is_where_the_table_says() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("../../../spec/runtime_folder.json")).unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let variable = |name: &str| case["environment"][name].as_str().map(Into::into);
        let is_ours = |_: &std::path::Path| case["run_is_ours"].as_bool().unwrap();
        let path = |key: &str| PathBuf::from(case[key].as_str().unwrap());
        assert_eq!(runtime::folder(variable, 4242, is_ours), path("folder"), "{case}");
        assert_eq!(runtime::socket(variable, 4242, is_ours), path("socket"), "{case}");
    }
}
