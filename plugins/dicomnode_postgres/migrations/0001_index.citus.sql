-- After 0001_index.sql, where Citus is: all that belongs to a tenant lies on one worker, so that each statement of ours,
-- which names its tenant, and each join, stays there. `migration` is small and read everywhere: a reference table.
SELECT create_distributed_table('patient', 'tenant');
SELECT create_distributed_table('study', 'tenant', colocate_with => 'patient');
SELECT create_distributed_table('series', 'tenant', colocate_with => 'patient');
SELECT create_distributed_table('instance', 'tenant', colocate_with => 'patient');
SELECT create_distributed_table('aside', 'tenant', colocate_with => 'patient');
SELECT create_distributed_table('content', 'tenant', colocate_with => 'patient');
SELECT create_reference_table('migration');
