DROP TABLE invitations, one_time_tokens, password_reset_requests, registrations, step_up_tokens, mfa_challenges,
    recovery_codes, user_totp, unknown_refusals, address_attempts, known_devices;
