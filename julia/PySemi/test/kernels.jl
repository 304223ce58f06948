# Each kernel through the text that makes it, against plain Julia: on whatever kind of arrays
# `KIND` names.

@testset "pointwise over random windows" begin
    for _ in 1:150, T in (Float32, Float64)
        shape = random_shape()
        out, n_out = random_window(8, shape)
        a, n_a = random_window(9, shape; repeats = true)
        b, n_b = random_window(10, shape; repeats = true)
        arrays = (rand(T, n_out), rand(T, n_a), rand(T, n_b))
        line = "$(view_text(out)) = pointwise $(view_text(a)) $(view_text(b)) :: x1 - x2"
        expected = scatter!(copy(arrays[1]), out, elements(arrays[2], a) .- elements(arrays[3], b))
        @test result_of(line, arrays...) == expected
    end
end

@testset "a short row that is the same for $rows rows of $n" for n in (1, 2, 4, 7, 200, 513), rows in (2, 3, 64, 67)
    x, row, column = randn(rows * n), randn(n), randn(rows)
    X, single = reshape(x, n, rows), [3.0]
    line(first, second, body) = "%8[$rows,$n] = pointwise %$first %$second :: $body"
    row_view, column_view, single_view = "10[$rows,$n|0,1|0]", "10[$rows,$n|1,0|0]", "10[$rows,$n|0,0|0]"
    for (operand, view, value) in (
            (row, row_view, row), (column, column_view, column'), (single, single_view, 3.0),
        )
        got = result_of(line("9[$rows,$n]", view, "x1 - x2"), zero(x), x, operand)
        @test reshape(got, n, rows) == X .- value
        # Where the result goes.
        got = result_of(line("8[$rows,$n]", view, "x1 * x2"), copy(x), x, operand)
        @test reshape(got, n, rows) == X .* value
    end
    # Of another type, and of a result with gaps between its rows.
    got = result_of(line("9[$rows,$n]", row_view, "ifelse(x2, x1, Float64(0.0))"), zero(x), x, row .> 0)
    @test reshape(got, n, rows) == X .* (row .> 0)
    gaps = "%8[$rows,$n|$(n + 1),1|0] = pointwise %9[$rows,$n] %10[$rows,$n|0,1|0] :: x1 - x2"
    got = reshape(result_of(gaps, zeros((n + 1) * rows), x, row), n + 1, rows)
    @test got[1:n, :] == X .- row && all(iszero, got[end, :])
end

@testset "a short row that is not the same for each of a third dimension" begin
    x, rows = randn(5, 6, 4), randn(5, 4)
    line = "%8[4,6,5] = pointwise %9[4,6,5] %10[4,6,5|5,0,1|0] :: x1 - x2"
    @test reshape(result_of(line, zeros(120), vec(x), vec(rows)), 5, 6, 4) == x .- reshape(rows, 5, 1, 4)
end

@testset "pointwise between element types, without operands, in place" begin
    x = [1.5, -2.5, 3.0]
    @test result_of("%8[3] = pointwise %9[3] :: Float32(x1)", zeros(Float32, 3), x) == Float32.(x)
    @test result_of("%8[3] = pointwise %9[3] :: x1 > Float64(0)", zeros(Bool, 3), x) == (x .> 0)
    @test result_of("%8[3] = pointwise :: Float64(7)", zeros(3)) == fill(7.0, 3)
    @test result_of("%8[3] = pointwise %8[3] :: tanh(x1)", x) ≈ tanh.(x) rtol = 4eps()
    chosen = result_of("%8[3] = pointwise %10[3] %9[3] :: ifelse(x1, x2, Float64(0))", zeros(3), x, x .> 0)
    @test chosen == max.(x, 0)
end

"A matrix window in a buffer: (rows, cols), lying transposed or not, `gap` apart, `batch` times."
function matrix_window(buffer, rows, cols, transposed, gap, batch, repeated)
    inner, outer = transposed ? (rows, cols) : (cols, rows)
    ld = inner + gap
    strides = transposed ? [1, ld] : [ld, 1]
    step = repeated ? 0 : ld * outer + 1
    batch === nothing && return Window(buffer, [rows, cols], strides, 2), 2 + ld * outer
    return Window(buffer, [batch, rows, cols], [step, strides...], 2), 2 + ld * outer + step * batch
end

function product_case(T, m, n, k; ta = false, tb = false, gap = 0, batch = nothing, repeated = false, adds = false)
    a, na = matrix_window(9, m, k, ta, gap, batch, repeated)
    b, nb = matrix_window(10, k, n, tb, gap, batch, false)
    c, nc = matrix_window(8, m, n, false, gap, batch, false)
    before = adds ? randn(T, nc) : fill(T(NaN), nc)
    arrays = (before, randn(T, na), randn(T, nb))
    line = "$(view_text(c)) = matmul $(view_text(a)) $(view_text(b))$(adds ? " add" : "")"
    got = elements(result_of(line, arrays...), c)
    A, B = elements(arrays[2], a), elements(arrays[3], b)
    wanted = batch === nothing ? A * B : stack(A[i, :, :] * B[i, :, :] for i in 1:batch; dims = 1)
    adds && (wanted += elements(before, c))
    return isapprox(got, wanted; rtol = 100eps(T), atol = 100eps(T))
end

# Small ones are done by loops, one row or column by gemv, the others by gemm.
@testset "product $m×$k×$n of $T" for T in (Float32, Float64),
        (m, n, k) in ((2, 3, 4), (1, 1, 5), (1, 1, 500), (20, 30, 10), (1, 40, 30), (40, 1, 30), (30, 40, 1), (7, 9, 0))

    for ta in (false, true), tb in (false, true), gap in (0, 3), adds in (false, true)
        @test product_case(T, m, n, k; ta, tb, gap, adds)
        @test product_case(T, m, n, k; ta, tb, gap, adds, batch = 3)
        @test product_case(T, m, n, k; ta, tb, gap, adds, batch = 3, repeated = true)
    end
end

@testset "long, thin product $m×$k×$n of $T" for T in (Float32, Float64), (m, n) in ((4, 2), (8, 9), (11, 3), (64, 5), (3, 7)),
        k in (512, 1024, 2500)

    for adds in (false, true), gap in (0, 2)
        @test product_case(T, m, n, k; tb = true, gap, adds)
    end
    @test product_case(T, m, n, k; tb = true, batch = 2)
end

@testset "a product into a column of something wider" begin
    A, x = randn(40, 30), randn(30)
    out = result_of("%8[40,1|3,1|1] = matmul %9[40,30] %10[30,1]", zeros(120), vec(A'), x)
    @test reshape(out, 3, 40)[2, :] ≈ A * x
    @test all(iszero, reshape(out, 3, 40)[[1, 3], :])
end

@testset "$name over random dimensions" for (name, f) in (("sum", sum), ("max", maximum), ("min", minimum))
    for _ in 1:100, T in (Float32, Float64)
        shape = random_shape()
        from, n_from = random_window(9, shape)
        kept = findall(d -> rand(Bool) || shape[d] == 1, eachindex(shape))
        strides = zeros(Int, length(shape))
        strides[kept] = PySemi.dense_strides(shape[kept])
        out = Window(8, shape, strides, 1)
        over = Tuple(setdiff(eachindex(shape), kept))
        arrays = (randn(T, 2 + prod(shape[kept])), randn(T, n_from))
        values = f(elements(arrays[2], from); dims = over)
        narrow = Window(8, collect(Int, size(values)), strides, 1)
        expected = scatter!(copy(arrays[1]), narrow, values)
        line = "$(view_text(out)) = reduce $(view_text(from)) $name"
        @test result_of(line, arrays...) ≈ expected
        name == "sum" || continue
        sums = elements(arrays[1], narrow) .+ values
        @test result_of("$line add", arrays...) ≈ scatter!(copy(arrays[1]), narrow, sums)
    end
end

@testset "reductions pass NaN on" for name in ("sum", "max", "min")
    x = collect(1.0:6.0)
    x[2] = NaN
    out = result_of("%8[2,3|1,0|0] = reduce %9[2,3] $name", zeros(2), x)
    @test isnan(out[1]) && !isnan(out[2])
end

@testset "a moving window" begin
    x = collect(1.0:24.0)
    line = "%8[3] = window %9[3|2|0] %10[] 6 4"
    @test result_of(line, zeros(3), x, [0]) == [1, 3, 5]
    @test result_of(line, zeros(3), x, [3]) == [19, 21, 23]
    @test_throws BoundsError result_of(line, zeros(3), x, [4])
    @test_throws BoundsError result_of(line, zeros(3), x, [-1])
    @test result_of("%8[2,2] = window %9[2,2|1,4|0] %10[] 8 2", zeros(4), x, [1]) == [9, 13, 10, 14]
end

@testset "take and put" begin
    x = [10.0, 20.0, 30.0]
    @test result_of("%8[4] = take %9[3] %10[4]", zeros(4), x, [2, 0, 0, 1]) == [30, 10, 10, 20]
    @test result_of("%8[3] = put %9[2] %10[2] set", x, [2, 0], [1.0, 2.0]) == [2, 20, 1]
    @test result_of("%8[3] = put %9[3] %10[3] add", x, [1, 1, 0], [1.0, 2.0, 3.0]) == [13, 23, 30]
    @test result_of("%8[3] = put %9[3] %10[3] prod", x, [1, 1, 0], [1.0, 2.0, 3.0]) == [30, 40, 30]
    @test result_of("%8[3] = put %9[3] %10[3] max", x, [1, 1, 0], [25.0, 21.0, 3.0]) == [10, 25, 30]
    @test result_of("%8[3] = put %9[3] %10[3] min", x, [1, 1, 0], [25.0, 19.0, 3.0]) == [3, 19, 30]
    @test isequal(result_of("%8[3] = put %9[2] %10[2] max", x, [1, 1], [NaN, 50.0]), [10, NaN, 30])
    for index in (3, -1)
        @test_throws BoundsError result_of("%8[1] = take %9[3] %10[1]", zeros(1), x, [index])
        @test_throws BoundsError result_of("%8[3] = put %9[1] %10[1] set", x, [index], [1.0])
    end
end

@testset "searchsorted" begin
    edges = [0.0, 1.0, 1.0, 2.0]
    values = [-1.0, 0.0, 1.0, 1.5, 2.0, 3.0, NaN]
    search(side) = result_of("%8[7] = searchsorted %9[7] %10[4] $side", zeros(Int, 7), values, edges)
    # NaN is beyond every number, as in torch.
    @test search("left") == [0, 0, 1, 3, 3, 4, 4]
    @test search("right") == [0, 1, 3, 3, 4, 4, 4]
    @test search("left")[1:6] == [searchsortedfirst(edges, v) - 1 for v in values[1:6]]
    @test search("right")[1:6] == [searchsortedlast(edges, v) for v in values[1:6]]
end

@testset "linear systems" begin
    A, B = randn(2, 3, 3), randn(2, 3, 2)
    rows(x) = vec(permutedims(x, ndims(x):-1:1))
    solved(trans) = stack((trans(A[i, :, :]) \ B[i, :, :] for i in 1:2); dims = 1)
    left = result_of("%8[2,3,2] = solve %9[2,3,3] %10[2,3,2] plain", zeros(12), rows(A), rows(B))
    @test left ≈ rows(solved(identity))
    @test result_of("%8[2,3,2] = solve %9[2,3,3] %10[2,3,2] transposed", zeros(12), rows(A), rows(B)) ≈
        rows(solved(transpose))
    # Without exchanging rows, this is a division by zero.
    @test result_of("%8[2,1] = solve %9[2,2] %10[2,1] plain", zeros(2), [0.0, 1, 1, 0], [3.0, 4]) == [4, 3]
end

@testset "factors" begin
    A = randn(2, 3, 3)
    rows(x) = vec(permutedims(x, ndims(x):-1:1))
    packed = result_of("%8[2,5,3] = factor %9[2,3,3] lu", zeros(30), rows(A))
    for i in 1:2
        factors = lu(A[i, :, :])
        found = reshape(packed, 3, 5, 2)[:, :, i]'
        @test found[1:3, :] ≈ factors.factors
        @test found[4, :] == factors.ipiv
        @test found[5, :] == factors.p .- 1
    end
    # A singular matrix has factors too.
    @test result_of("%8[4,2] = factor %9[2,2] lu", zeros(8), [0.0, 1, 0, 2])[3:6] == [0, 2, 1, 2]
    S = A[1, :, :] * A[1, :, :]' + I
    @test result_of("%8[3,3] = factor %9[3,3] cholesky", zeros(9), rows(S)) ≈ rows(cholesky(S).L)
    @test isnan(last(result_of("%8[2,2] = factor %9[2,2] cholesky", zeros(4), [1.0, 2, 2, 1])))
end

@testset "exponentials of matrices $n×$n of norm $size, $T" for T in (Float32, Float64), n in (1, 4, 7),
        size in (0, 0.01, 0.2, 0.9, 3, 40)

    A = stack((A * T(size / opnorm(A, Inf)) for A in (randn(T, n, n), randn(T, n, n))); dims = 1)
    rows(x) = vec(permutedims(x, ndims(x):-1:1))
    wanted = stack((exp(Float64.(A[i, :, :])) for i in 1:2); dims = 1)
    got = result_of("%8[2,$n,$n] = exponential %9[2,$n,$n]", zeros(T, 2n^2), rows(A))
    # Each squaring may double the relative error, as that of the condition number does.
    @test relative(got, rows(wanted)) < 20max(1, size) * eps(T)
    # One of them, lying transposed.
    line = "%8[$n,$n] = exponential %9[$n,$n|1,$n|$(n^2)]"
    @test relative(result_of(line, zeros(T, n^2), rows(A)), vec(wanted[2, :, :])) < 20max(1, size) * eps(T)
end

@testset "the exponential of a nilpotent matrix is a polynomial; of NaN or infinity, NaN" begin
    @test result_of("%8[2,2] = exponential %9[2,2]", zeros(4), [0.0, 1.0e3, 0, 0]) ≈ [1, 1.0e3, 0, 1]
    for bad in (NaN, Inf)
        @test all(isnan, result_of("%8[2,2] = exponential %9[2,2]", zeros(4), [0.0, bad, 0, 0]))
    end
end
