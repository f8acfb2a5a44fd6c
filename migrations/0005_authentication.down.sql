DROP TABLE invitations, one_time_tokens, password_reset_requests, registrations, step_up_tokens, mfa_challenges,
    recovery_codes, user_totp, unknown_refusals, address_attempts, known_devices;
DROP TYPE invitation_route, key_outcome, login_result, login_outcome, login_account, factor_attempt, password_attempt,
    attempt_refusal, new_challenge, new_device;
