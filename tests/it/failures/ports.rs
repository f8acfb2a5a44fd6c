//! Ports that the service cannot have.

use super::Attempt;

#[tokio::test]
async fn a_port_that_is_taken_is_named_with_its_setting() {
    for (setting, name) in [
        ("SERVER__GRPC_ADDRESS", "start_grpc_port_taken"),
        ("SERVER__OPS_ADDRESS", "start_ops_port_taken"),
        ("SERVER__PUBLIC_ADDRESS", "start_public_port_taken"),
    ] {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let attempt = Attempt::new().with(setting, &address.to_string()).word(address.port(), "PORT");
        attempt.says(name, &["serve"]).await;
    }
}

#[tokio::test]
async fn an_address_of_another_machine_is_named_with_its_setting() {
    // From the range that is for documentation only.
    let attempt = Attempt::new().with("SERVER__GRPC_ADDRESS", "192.0.2.1:50051");
    attempt.says("start_address_of_another_machine", &["serve"]).await;
}
