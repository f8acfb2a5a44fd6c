DROP TABLE invitations, one_time_tokens, password_reset_requests, registrations, step_up_tokens, mfa_challenges,
    recovery_codes, user_totp, unknown_refusals, address_attempts, known_devices;
DROP TYPE new_invitation, login_result, login_outcome, login_account, new_challenge, new_device, key_outcome;
