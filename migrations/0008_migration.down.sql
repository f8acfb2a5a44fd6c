DROP TABLE migration_items, migrations, migration_plan_items, migration_plans, imports;
