-- What a query sees. `manifest_file` is the Parquet file, `sigma_grid` the levels of its metadata, or the usual ones
-- where it has none; both are registered by curate/query.py. `usable` says the same as schemas/usable.py:
-- 1.1547005... is sqrt(4/3), the default beta; e0 makes it a DOUBLE, where a DECIMAL would round twice.

CREATE VIEW manifest AS FROM manifest_file;

CREATE MACRO usable(s, beta := 1.1547005383792515e0) AS TABLE
    SELECT *
    FROM manifest
    WHERE status = 'ok'
      AND s >= 0
      AND (s > beta * sigma_min::DOUBLE OR s < sigma_max::DOUBLE);

-- One line per source: how many pictures, and from which noise level those that are not clean can be used. The
-- quantiles are values that occur: between two infinities there is nothing to interpolate.
CREATE VIEW by_source AS
    SELECT
        source,
        count(*) AS pictures,
        count(*) FILTER (status = 'ok') AS ok,
        count(*) FILTER (role = 'clean' AND status = 'ok') AS clean,
        round(quantile_disc(sigma_min, 0.1) FILTER (status = 'ok' AND role <> 'clean'), 3) AS sigma_min_p10,
        round(quantile_disc(sigma_min, 0.5) FILTER (status = 'ok' AND role <> 'clean'), 3) AS sigma_min_median,
        round(quantile_disc(sigma_min, 0.9) FILTER (status = 'ok' AND role <> 'clean'), 3) AS sigma_min_p90,
        count(*) FILTER (status = 'ok' AND isinf(sigma_min)) AS never
    FROM manifest
    GROUP BY source
    ORDER BY source;

-- Pictures usable at each level of the grid, and how many of them are clean.
CREATE VIEW coverage AS
    SELECT
        sigma,
        count(uri) AS usable,
        count(uri) FILTER (role = 'clean') AS clean,
        round(count(uri) / greatest((SELECT count(*) FROM manifest WHERE status = 'ok'), 1), 4) AS share
    FROM sigma_grid
    LEFT JOIN manifest
      ON status = 'ok'
     AND (sigma > 1.1547005383792515e0 * sigma_min::DOUBLE OR sigma < sigma_max::DOUBLE)
    GROUP BY sigma
    ORDER BY sigma;
