DROP FUNCTION directory_remove_second_factor(uuid);
DROP FUNCTION directory_has_second_factor(uuid);
