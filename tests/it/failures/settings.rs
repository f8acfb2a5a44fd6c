//! Configuration files and settings that cannot be used.

use super::Attempt;

async fn with_text(name: &str, text: &str) {
    let attempt = Attempt::new().without("SERVER__OPS_ADDRESS");
    let file = attempt.file("sidle.toml", text, 0o600);
    attempt.says(name, &["serve", "--config", file.file_name().unwrap().to_str().unwrap()]).await;
}

#[tokio::test]
async fn a_configuration_file_that_cannot_be_read_is_named() {
    Attempt::new().says("start_config_missing", &["serve", "--config", "nowhere.toml"]).await;
    with_text("start_config_not_toml", "[database]\nurl = \"postgres://sidle_app:hunter2@db/sidle\nx").await;
}

#[tokio::test]
async fn a_setting_that_cannot_be_used_is_named_with_what_would_be_accepted() {
    with_text("start_config_unknown_key", "[server]\nplain_text = true\n").await;
    with_text("start_config_unknown_section", "[sever]\nplaintext = true\n").await;
    with_text("start_config_wrong_type", "[passwords]\ncost = \"twelve\"\n").await;
    with_text("start_config_bad_duration", "[server]\nidle_timeout = \"5 minuts\"\n").await;
    with_text("start_config_bad_address", "[server]\nops_address = \"localhost\"\n").await;
    with_text("start_config_out_of_bounds", "[tokens]\nrefresh_leeway = \"5m\"\n").await;
}

#[tokio::test]
async fn several_settings_are_reported_together() {
    let text = "[server]\nidle_timeout = \"5 minuts\"\nplain_text = true\n[mail]\ntls = \"ssl\"\n[tokens]\n\
                refresh_leeway = 5\n";
    with_text("start_config_several", text).await;
    with_text("start_config_several_out_of_bounds", "[passwords]\nmax_attempts = 0\n[mfa]\nissuer = \"\"\n").await;
}

#[tokio::test]
async fn the_log_and_the_collector_are_tried_before_anything_else() {
    Attempt::new().with("LOG__LEVEL", "debgu").says("start_log_level_unknown", &["serve"]).await;
    let endpoint = Attempt::new().with("TELEMETRY__OTLP_ENDPOINT", "collector:4317");
    endpoint.says("start_collector_unusable", &["serve"]).await;
    let headers = Attempt::new().with("TELEMETRY__OTLP_ENDPOINT", "http://collector:4317");
    headers.with("TELEMETRY__OTLP_HEADERS", "hunter2").says("start_collector_headers", &["serve"]).await;
}
