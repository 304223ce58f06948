# Small dense linear systems, by elimination with partial pivoting.

"""
    LinearSolve{T}

`A X = B` (or `A' X = B`) for each of a batch of row-major A (n, n) and B (n, k).
"""
struct LinearSolve{T} <: Function
    n::Int
    k::Int
    batch::Int
    a::Ptr{T}
    a_strides::NTuple{3, Int}
    b::Ptr{T}
    b_strides::NTuple{3, Int}
    x::Ptr{T}
    factors::Matrix{T}
end

function LinearSolve(::Type{T}, pointer, out::Window, a::Window, b::Window, transposed) where {T}
    n, k = b.shape[end - 1], b.shape[end]
    batched = length(a.shape) == 3
    lead(w) = batched ? w.strides[1] : 0
    rows, cols = a.strides[end - 1], a.strides[end]
    transposed && ((rows, cols) = (cols, rows))
    return LinearSolve{T}(
        n, k, batched ? a.shape[1] : 1, pointer(a), (lead(a), rows, cols), pointer(b),
        (lead(b), b.strides[end - 1], b.strides[end]), pointer(out), zeros(T, n, n)
    )
end

function (s::LinearSolve)()
    for i in 0:(s.batch - 1)
        solve_one!(
            s, element(s.a, i * s.a_strides[1]), element(s.b, i * s.b_strides[1]),
            element(s.x, i * s.n * s.k)
        )
    end
    return nothing
end

function solve_one!(s::LinearSolve{T}, a, b, x) where {T}
    (; n, k, factors) = s
    at(i, j) = i * k + j + 1
    @inbounds for i in 0:(n - 1)
        for j in 0:(n - 1)
            factors[i + 1, j + 1] = unsafe_load(a, i * s.a_strides[2] + j * s.a_strides[3] + 1)
        end
        for j in 0:(k - 1)
            unsafe_store!(x, unsafe_load(b, i * s.b_strides[2] + j * s.b_strides[3] + 1), at(i, j))
        end
    end
    @inbounds for column in 1:n
        pivot = column
        for row in (column + 1):n
            abs(factors[row, column]) > abs(factors[pivot, column]) && (pivot = row)
        end
        if pivot != column
            for j in column:n
                factors[column, j], factors[pivot, j] = factors[pivot, j], factors[column, j]
            end
            for j in 0:(k - 1)
                upper, lower = unsafe_load(x, at(column - 1, j)), unsafe_load(x, at(pivot - 1, j))
                unsafe_store!(x, lower, at(column - 1, j))
                unsafe_store!(x, upper, at(pivot - 1, j))
            end
        end
        for row in (column + 1):n
            factor = factors[row, column] / factors[column, column]
            for j in (column + 1):n
                factors[row, j] -= factor * factors[column, j]
            end
            for j in 0:(k - 1)
                value = unsafe_load(x, at(row - 1, j)) - factor * unsafe_load(x, at(column - 1, j))
                unsafe_store!(x, value, at(row - 1, j))
            end
        end
    end
    @inbounds for row in n:-1:1, j in 0:(k - 1)
        value = unsafe_load(x, at(row - 1, j))
        for l in (row + 1):n
            value -= factors[row, l] * unsafe_load(x, at(l - 1, j))
        end
        unsafe_store!(x, value / factors[row, row], at(row - 1, j))
    end
    return nothing
end
