-- Other partitions on the target, without publishing by root: setup names the partition that is missing
-- [refused by setup: table public.a is missing on the target]
-- [source]
create table t(id int primary key, v text) partition by range (id);
create table a partition of t for values from (0) to (10);
-- [target]
create table t(id int primary key, v text);
